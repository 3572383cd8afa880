"""Writers, a drain, a dump of PostgreSQL and a snapshot of Redis; both restored; what is lost, doubled and told, by family.

A moment is: everybody writes, a drain stores it, everybody writes again. A drain that is in the middle of it has claimed some
of that, and stored a part of what it claimed. The disaster comes right after the later of the two back-ups.
"""

import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Literal

import psycopg
import pytest
import redis
from usage_recorder import Recorder

from usage_pipeline.alerting.evaluation import evaluate_pipeline
from usage_pipeline.alerting.facts import OrchestrationFacts
from usage_pipeline.alerting.record import open_alerts
from usage_pipeline.drain.rounds import drain_once
from usage_pipeline.local.servers.postgres import create_database
from usage_pipeline.merchants.aggregation import aggregate
from usage_pipeline.reconciliation.comparison import reconcile
from usage_pipeline.settings import Settings, load_settings
from usage_pipeline_tests.drain.rig import Crash, Life, lives, run_until_crash
from usage_pipeline_tests.restore.backups import (
    delete_what_is_added_up,
    dump,
    dump_programs,
    restore_dump,
    snapshot,
    start_from_snapshot,
)
from usage_pipeline_tests.rigs.commands import run_command
from usage_pipeline_tests.torture.servers import RedisServer, Stage

FAMILIES = ("api_key", "provider", "token", "event", "merchant")
_ALL = ("api_key", "provider", "token", "event")
_STORED = {
    "api_key": "select api_key_id, total_requests from usage.api_keys",
    "provider": "select api_key_id, upload_count from usage.provider_usage",
    "token": "select token_id, usage_count from usage.api_access_tokens where usage_count > 0",
    "event": "select api_key_id, count(*) from raw.request_events group by api_key_id",
    "merchant": "select merchant_id, sum(metric_value) from usage.merchant_usage group by merchant_id",
}
Remedy = Literal["documented", "none", "empty"]


@dataclass(frozen=True, slots=True)
class Scenario:
    """Moments of the two back-ups; whether a drain is in the middle at each; what is done about a Redis that is older.

    `documented`: the commands of docs/operations.md. `none`: drained as it is. `empty`: Redis starts empty instead.
    """

    name: str
    dump_at: int
    snapshot_at: int
    is_in_the_middle: bool = False
    remedy: Remedy = "documented"


def _scenarios() -> Iterator[Scenario]:
    for is_in_the_middle in (False, True):
        for name, dump_at, snapshot_at, remedy in (
            ("the same moment", 1, 1, "documented"),
            ("PostgreSQL older", 0, 1, "documented"),
            ("Redis older, its counters deleted", 1, 0, "documented"),
            ("Redis older, drained as it is", 1, 0, "none"),
            ("PostgreSQL alone, Redis empty", 1, 1, "empty"),
        ):
            yield Scenario(name, dump_at, snapshot_at, is_in_the_middle, remedy)  # type: ignore[arg-type]


SCENARIOS = tuple(_scenarios())


@dataclass(frozen=True, slots=True)
class Outcome:
    """Amounts by family. `missing` and `counted_twice`: by the reconciliation; `uncertain`: families with flagged batches.

    `in_dump` and `at_snapshot`: what PostgreSQL had at these moments. `turn`: what one turn of the writers is.
    """

    scenario: Scenario
    written: dict[str, int]
    turn: dict[str, int]
    in_dump: dict[str, int]
    at_snapshot: dict[str, int]
    lost: dict[str, int]
    doubled: dict[str, int]
    missing: dict[str, int]
    counted_twice: dict[str, int]
    uncertain: frozenset[str]
    alerts: frozenset[str]
    regressions: int


class Writers:
    """Everybody who writes, by our recorder, and what they wrote: by family and id.

    Each turn has ids of its own, so that a loss of one turn is never hidden by what another turn has too much. Only merchants
    are the same each time: their counters are absolute.
    """

    def __init__(self, ids: int) -> None:
        self._ids, self._turn = ids, 0
        self.written: Counter[tuple[str, str]] = Counter()

    def write(self, url: str) -> None:
        self._turn += 1
        with closing(Recorder.connect(url, timeout_seconds=5)) as recorder:
            for number in range(self._ids):
                name, amount = f"{self._turn}-{number}", number % 7 + 1
                answers = [
                    recorder.record_api_key(name, requests=amount),
                    recorder.record_provider(name, "s3", user_id="u", uploads=amount),
                    recorder.record_token(name, uuid.uuid4().hex[:8], count=amount),
                    recorder.record_merchant(f"m-{number}", "orders", value=amount),
                    recorder.record_event(name, user_id="u", provider="s3", event_type="upload"),
                ]
                assert all(answers), answers
                for family in FAMILIES:
                    of = f"m-{number}" if family == "merchant" else name
                    self.written[family, of] += 1 if family == "event" else amount


def play(stage: Stage, folder: Path, scenario: Scenario, *, ids: int) -> Outcome:
    """Plays a scenario in a fresh database and on a fresh Redis. Raises NoDump."""
    programs = dump_programs(stage.postgres)
    writers = Writers(ids)
    in_dump: dict[str, int] = {}
    at_snapshot: dict[str, int] = {}
    turn: dict[str, int] = {}
    with stage.database() as url, stage.running_redis() as server:
        settings = load_settings(database_url=url, redis_url=server.url)
        for moment in range(max(scenario.dump_at, scenario.snapshot_at) + 1):
            writers.write(server.url)
            turn = turn or _by_family(writers.written)
            _drain(settings)
            writers.write(server.url)
            if scenario.is_in_the_middle:
                _leave_in_the_middle(settings)
            reconcile(settings)
            if moment == scenario.dump_at:
                dump(programs, url, folder / "dump")
                in_dump = _by_family(_stored(settings))
            if moment == scenario.snapshot_at:
                snapshot(server, folder / "snapshot")
                at_snapshot = _by_family(_stored(settings))
    name = f"restored_{uuid.uuid4().hex}"
    create_database(stage.postgres, name)
    restored = stage.redis()
    try:
        restore_dump(programs, stage.postgres.url(name), folder / "dump")
        if scenario.remedy == "empty":
            restored.start()
        else:
            start_from_snapshot(restored, folder / "snapshot")
        settings = load_settings(database_url=stage.postgres.url(name), redis_url=restored.url)
        _follow_the_docs(settings, restored, scenario)
        # Counting goes on.
        before = Counter(writers.written)
        writers.write(restored.url)
        _drain(settings)
        if scenario.remedy == "empty":
            # Only now the counters of merchants are there again, from zero.
            _run(settings, "counters", "accept-reset", "--reason", "Redis started empty")
        return _measure(settings, scenario, writers, before, turn, in_dump, at_snapshot)
    finally:
        restored.stop()
        with stage.admin() as connection:
            connection.execute(f"drop database {name} with (force)")


def _drain(settings: Settings) -> None:
    for _ in range(2):
        drain_once(settings, _ALL)
    today = datetime.now(UTC).date()
    aggregate(settings, [today - timedelta(days=1), today])


def _leave_in_the_middle(settings: Settings) -> None:
    """A drain of each family that ends half-way: some API keys are stored and not deleted yet, the others claimed only."""
    with pytest.MonkeyPatch.context() as patch, lives(patch), _connected(settings) as postgres:

        def is_unreleased() -> bool:
            query = "select exists (select from ops.sync_batches where released_at is null)"
            return postgres.execute(query).fetchall() == [(True,)]

        def is_claimed(pattern: str) -> bool:
            with redis.Redis.from_url(settings.redis_dsn.get_secret_value()) as client:
                return any(client.scan_iter(f"usage_pipeline:claim:*{pattern}*"))

        ends = {
            "api_key": _crash("after commit", is_unreleased),
            "provider": _crash("before commit", partial(is_claimed, "provider:")),
            "token": _crash("before commit", partial(is_claimed, "token_usage:")),
            "event": _crash("before commit", partial(is_claimed, "event_queue")),
        }
        for family, crash in ends.items():
            with Life(settings, at_step=crash) as life:
                assert run_until_crash(life, family), family


def _crash(wanted: str, is_there: Callable[[], bool]) -> Callable[[int, str], None]:
    def at_step(_: int, label: str) -> None:
        if label == wanted and is_there():
            raise Crash

    return at_step


def _follow_the_docs(settings: Settings, server: RedisServer, scenario: Scenario) -> None:
    """Step by step, as docs/operations.md says it."""
    is_redis_older = scenario.snapshot_at < scenario.dump_at
    _run(settings, "migrate")
    if is_redis_older and scenario.remedy == "documented":
        delete_what_is_added_up(server)
    today = datetime.now(UTC).date()
    for _ in range(2):
        _run(settings, "drain")
        # It ends with 1 where counters read lower than what is stored.
        run_command(settings, "aggregate", "--from", today - timedelta(days=1), "--to", today)
    if is_redis_older:
        run_command(settings, "counters", "accept-restore", "--reason", "restored")


def _run(settings: Settings, *arguments: object) -> None:
    done = run_command(settings, *arguments)
    assert done.returncode == 0, done


def _measure(
    settings: Settings,
    scenario: Scenario,
    writers: Writers,
    before: Counter[tuple[str, str]],
    turn: dict[str, int],
    in_dump: dict[str, int],
    at_snapshot: dict[str, int],
) -> Outcome:
    report = reconcile(settings)
    evaluate_pipeline(settings, OrchestrationFacts(), {})
    stored = _stored(settings)
    with _connected(settings) as postgres:
        uncertain = postgres.execute("select distinct family from ops.sync_batches where is_uncertain").fetchall()
        [(regressions,)] = postgres.execute("select count(*) from ops.counter_regressions").fetchall()
        alerts = {alert.rule for alert in open_alerts(postgres)}
    return Outcome(
        scenario=scenario,
        written=_by_family(before),
        turn=turn,
        in_dump=in_dump,
        at_snapshot=at_snapshot,
        lost=_by_family(writers.written - stored),
        doubled=_by_family(stored - writers.written),
        missing={family: sum(row.missing for row in report.rows if row.family == family) for family in FAMILIES},
        counted_twice={
            family: sum(row.counted_twice for row in report.rows if row.family == family) for family in FAMILIES
        },
        uncertain=frozenset(family for (family,) in uncertain),
        alerts=frozenset(alerts),
        regressions=regressions,
    )


def _stored(settings: Settings) -> Counter[tuple[str, str]]:
    found: Counter[tuple[str, str]] = Counter()
    with _connected(settings) as postgres:
        for family, query in _STORED.items():
            found.update({(family, name): int(amount) for name, amount in postgres.execute(query).fetchall()})
    return found


def _by_family(amounts: Counter[tuple[str, str]]) -> dict[str, int]:
    return {family: sum(amount for (of, _), amount in amounts.items() if of == family) for family in FAMILIES}


@contextmanager
def _connected(settings: Settings) -> Iterator[psycopg.Connection]:
    with psycopg.connect(settings.database_url.get_secret_value(), autocommit=True) as postgres:
        yield postgres
