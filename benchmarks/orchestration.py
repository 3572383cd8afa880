"""What users of `usage-pipeline dev` wait for: the UI, a counter's way into its table, a backfill; and what it takes when idle.

Run: python -m benchmarks.orchestration [--seconds N] [--days N] [--sizes N,N] [--only PART,PART] [--json]
"""

import argparse
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime, timedelta
from statistics import quantiles

import psycopg
import redis
from rich.table import Table

from benchmarks.dev_system import Backfill, DevSystem, own_folder, running_dev
from benchmarks.harness import parsed, say, show, table_of
from benchmarks.range_definitions import VARIABLE
from usage_pipeline.drain.rounds import drain_once
from usage_pipeline.rollups.daily import current_day
from usage_pipeline.settings import load_settings

ASSET = ("usage", "api_key_daily")
PARTS = ("start", "fresh", "idle", "backfill")
_SEED = 20261121
_KEYS_PER_DAY = 50
_IDLE_SECONDS = 60.0
# After the start, until the daemon has caught up and its caches are filled.
_SETTLE_SECONDS = 20.0
_LONGEST_WAIT_SECONDS = 60.0
_POLL_SECONDS = 0.02
_STORED = "select api_key_id from usage.api_keys where api_key_id = any(%s)"


@dataclass(frozen=True, slots=True)
class Ranges:
    """A backfill of all days in range runs of one size: as a whole, with a day that fails, and the re-run that mends it."""

    partitions_per_run: int
    whole: Backfill
    with_bad_day: Backfill
    mended: Backfill


@dataclass(slots=True)
class Result:
    """Seconds; shares of one core. What was not asked for is missing."""

    ui_cold: float | None = None
    ui_warm: float | None = None
    fresh_p50: float | None = None
    fresh_p95: float | None = None
    fresh_counters: int = 0
    idle: dict[str, float] = field(default_factory=dict)
    backfills: list[Ranges] = field(default_factory=list)


def measure_freshness(system: DevSystem, seconds: float) -> list[float]:
    """From writing a counter to its row, as a reader of the table sees it: a new key at random moments, about one a second."""
    chance = random.Random(_SEED)
    written_at: dict[str, float] = {}
    taken: list[float] = []
    until = time.monotonic() + seconds
    next_at, number = time.monotonic(), 0
    with (
        redis.Redis.from_url(system.redis_url) as client,
        psycopg.connect(system.database_url, autocommit=True) as connection,
    ):
        while time.monotonic() < until or written_at:
            now = time.monotonic()
            if next_at <= now < until:
                key, number = f"fresh-{number}", number + 1
                client.hset(f"apikey:{key}:metrics", "total_requests", 1)
                written_at[key] = time.monotonic()
                next_at = now + chance.uniform(0.5, 1.5)
            for (key,) in connection.execute(_STORED, (list(written_at),)).fetchall():
                taken.append(time.monotonic() - written_at.pop(key))
            if written_at and now - min(written_at.values()) > _LONGEST_WAIT_SECONDS:
                raise RuntimeError(f"a counter is not stored after {_LONGEST_WAIT_SECONDS:.0f} s")
            time.sleep(_POLL_SECONDS)
    return taken


def measure_idle(system: DevSystem) -> dict[str, float]:
    """Shares of a core over a minute in which nothing is written; what schedules start is not in them."""
    parts = {
        "daemon and code server": ("dagster-daemon", "code-server", "api grpc"),
        "web server": ("usage-pipeline-webserver",),
    }
    before = {part: system.processor_seconds(*names) for part, names in parts.items()}
    began_at = time.monotonic()
    time.sleep(_IDLE_SECONDS)
    seconds = time.monotonic() - began_at
    return {part: (system.processor_seconds(*names) - before[part]) / seconds for part, names in parts.items()}


def store_days(system: DevSystem, days: Sequence[date]) -> None:
    """Counters of each day, drained; their daily rows are yet to be made, but no sensor is to make them."""
    with redis.Redis.from_url(system.redis_url) as client:
        for day in days:
            at_ms = int(datetime(day.year, day.month, day.day, 0, 1, tzinfo=UTC).timestamp() * 1000)
            pipeline = client.pipeline(transaction=False)
            for number in range(_KEYS_PER_DAY):
                mapping = {"total_requests": number + 1, "last_used_at": at_ms}
                pipeline.hset(f"apikey:{day}-{number}:metrics", mapping=mapping)
            pipeline.execute()
    settings = load_settings(database_url=system.database_url, redis_url=system.redis_url)
    if not drain_once(settings, ["api_key"], wait_for_lock_seconds=60).is_complete:
        raise RuntimeError("the counters are not drained")


def measure_backfill(system: DevSystem, days: Sequence[date], size: int) -> Ranges:
    """The three backfills. What they stored is compared with the sums of raw."""
    bad_day = days[len(days) // 2]
    with psycopg.connect(system.database_url, autocommit=True) as connection:
        _, whole = system.backfill(ASSET, days)
        sums = "select usage_date, sum(total_requests) from {} group by 1 order by 1"
        stored, expected = (
            connection.execute(sums.format(table)).fetchall() for table in ("usage.api_key_daily", "raw.api_key_deltas")
        )
        if stored != expected or len(stored) != len(days):
            raise RuntimeError(f"expected {len(days)} days with the sums of raw, came {len(stored)}")
        connection.execute("truncate usage.api_key_daily")
        connection.execute(f"alter table usage.api_key_daily add constraint bad_day check (usage_date <> '{bad_day}')")
        launched, with_bad_day = system.backfill(ASSET, days)
        connection.execute("alter table usage.api_key_daily drop constraint bad_day")
        mended = system.re_run_failed(launched)
    return Ranges(size, whole, with_bad_day, mended)


@contextmanager
def range_system(size: int) -> Iterator[DevSystem]:
    """`dev` with range runs of this size, and without schedules and sensors: they would make days meanwhile."""
    environment = {VARIABLE: str(size), "ENABLE_JOB_SCHEDULER": "false", "USAGE_TIMEZONE": "UTC"}
    with (
        own_folder() as folder,
        running_dev(folder, module="benchmarks.range_definitions", environment=environment) as system,
    ):
        time.sleep(_SETTLE_SECONDS)
        yield system


def measure(parts: Sequence[str], *, seconds: float, days: int, sizes: Sequence[int]) -> Result:
    """The parts that are asked for, each `dev` on servers of its own."""
    result = Result()
    if {"start", "fresh", "idle"} & set(parts):
        with own_folder() as folder:
            with running_dev(folder) as system:
                result.ui_cold = system.ui_seconds
                say(f"the UI answers after {system.ui_seconds:.1f} s, cold")
            with running_dev(folder) as system:
                result.ui_warm = system.ui_seconds
                say(f"the UI answers after {system.ui_seconds:.1f} s, warm")
                if {"fresh", "idle"} & set(parts):
                    time.sleep(_SETTLE_SECONDS)
                if "idle" in parts:
                    result.idle = measure_idle(system)
                    say(", ".join(f"{part} {share:.1%} of a core" for part, share in result.idle.items()))
                if "fresh" in parts:
                    taken = measure_freshness(system, seconds)
                    cut = quantiles(taken, n=20)
                    result.fresh_p50, result.fresh_p95, result.fresh_counters = cut[9], cut[18], len(taken)
                    say(f"{len(taken)} counters: p50 {cut[9]:.1f} s, p95 {cut[18]:.1f} s")
    for size in sizes if "backfill" in parts else ():
        with range_system(size) as system:
            today = current_day(load_settings().timezone)
            chosen = [today - timedelta(days=ago) for ago in range(days - 1, -1, -1)]
            store_days(system, chosen)
            result.backfills.append(measure_backfill(system, chosen, size))
            whole = result.backfills[-1].whole
            say(f"{size} a run: {whole.runs} runs, {whole.seconds:.1f} s, of which runs {whole.run_seconds:.1f} s")
    return result


def tables(result: Result) -> Iterator[Table]:
    """What was measured, as a person reads it."""
    shown = table_of("usage-pipeline dev", "", "measured", "goal")
    seconds = {
        "UI answers, cold": (result.ui_cold, ""),
        "UI answers, warm": (result.ui_warm, "10 s"),
        "counter to row, p50": (result.fresh_p50, ""),
        "counter to row, p95": (result.fresh_p95, "6 s"),
    }
    for name, (value, goal) in seconds.items():
        if value is not None:
            shown.add_row(name, f"{value:.1f} s", goal)
    for part, share in result.idle.items():
        shown.add_row(f"idle, {part}", f"{share:.1%} of a core", "5 %" if part.startswith("daemon") else "")
    yield shown
    if result.backfills:
        yield _backfill_table(result.backfills)


def _backfill_table(backfills: Sequence[Ranges]) -> Table:
    shown = Table(
        title=f"Backfill of {backfills[0].whole.partitions} days of {'/'.join(ASSET)}; goals: 60 s, runs 20 s"
    )
    for heading in ("days a run", "runs", "seconds", "first start to last end", "with a bad day", "stand", "re-run"):
        shown.add_column(heading, justify="right")
    for one in backfills:
        whole, bad, mended = one.whole, one.with_bad_day, one.mended
        numbers = (f"{whole.seconds:.1f}", f"{whole.run_seconds:.1f}", f"{bad.seconds:.1f}")
        stand = f"{bad.materialized} of {bad.partitions}"
        shown.add_row(str(one.partitions_per_run), str(whole.runs), *numbers, stand, f"{mended.seconds:.1f}")
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=300, help="how long counters are written and looked for")
    parser.add_argument("--days", type=int, default=180, help="days of the backfill")
    parser.add_argument("--sizes", default="10,30,60,180", help="days in a range run, one measurement each")
    parser.add_argument("--only", default=",".join(PARTS), help="parts to measure: " + ",".join(PARTS))
    chosen = parsed(parser, tables="tables")
    parts, sizes = chosen.only.split(","), [int(size) for size in chosen.sizes.split(",")]
    if not set(parts) <= set(PARTS) or chosen.seconds < 30 or not 3 <= chosen.days <= 180 or min(sizes) < 1:
        parser.error(f"expected parts of {', '.join(PARTS)}, at least 30 seconds, 3 to 180 days and sizes from 1")
    result = measure(parts, seconds=chosen.seconds, days=chosen.days, sizes=sizes)
    show(asdict(result), tables(result), as_json=chosen.json)


if __name__ == "__main__":
    main()
