"""`usage-pipeline demo`: writes and drains at the same time on local servers, then compares both sides."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import psycopg
from usage_recorder.recorder import Recorder

from usage_pipeline.access.tokens import create_token, revoke_token
from usage_pipeline.definitions import build_definitions
from usage_pipeline.defs.run_now import materialize_days
from usage_pipeline.drain.rounds import drain_once
from usage_pipeline.local.demo.changes import make_again, put_right, read_back, store_late
from usage_pipeline.local.demo.comparison import FamilyResult, Ours, compare
from usage_pipeline.local.demo.costs import CostResult, compare_costs
from usage_pipeline.local.demo.events import counts_of, send_events, service
from usage_pipeline.local.demo.findings import findings
from usage_pipeline.local.demo.plan import Planned, as_sent, made_up_events
from usage_pipeline.local.demo.prices import import_own_prices, recost_days
from usage_pipeline.local.processes.children import stop_left_overs
from usage_pipeline.local.processes.dagster import EVENT_BATCHES, child_environment, prepare_home
from usage_pipeline.local.servers.both import LocalServers
from usage_pipeline.local.traffic.counters import (
    Request,
    Written,
    made_up_requests,
    trace_requests,
    write,
    write_backlog,
    write_malformed,
)
from usage_pipeline.local.traffic.events import trace_calls, usage_events
from usage_pipeline.local.traffic.issues import made_up_issues, store_issues
from usage_pipeline.merchants.aggregation import aggregate
from usage_pipeline.rollups.calendar import day_window
from usage_pipeline.rollups.daily import current_day
from usage_pipeline.settings import Settings, load_settings
from usage_pipeline.storage.migrations import migrate
from usage_pipeline.storage.postgres import connect
from usage_pipeline.storage.redis import client
from usage_pipeline.texts import counted

# Two weeks of counters, so that analysts can compare them.
_MADE_UP_DAYS = 14
_BACKLOG_KEYS = 20_000
_MADE_UP_ISSUES, _ISSUE_DAYS = 240, 42
Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class DemoResult:
    """The result of the demo. `keys_per_second` is the speed of the drain with the most keys."""

    families: list[FamilyResult]
    costs: list[CostResult]
    uncompared_costs: int
    requests: int
    events_sent: int
    dropped: int
    drains: int
    drains_while_writing: int
    keys_per_second: float
    days: list[date]
    are_days_materialized: bool
    findings: list[str]
    seconds: float

    @property
    def difference(self) -> int:
        return sum(family.difference for family in self.families)

    @property
    def cost_difference(self) -> Decimal:
        return sum((cost.difference for cost in self.costs), Decimal(0))


def run_demo(folder: Path, *, trace: Path | None, seconds: float, writers: int, say: Report) -> DemoResult:
    """Runs the demo with embedded servers. Their data stay in `folder`, where `usage-pipeline dev` finds them.

    Raises AlreadyRunningError while another process uses the folder, and TraceError or OSError for a bad trace.
    """
    started = time.monotonic()
    # Read as a whole before anything starts, so that a broken file is told at once.
    seed = int(time.time())
    mark = str(seed)
    traced = list(trace_requests(trace, mark=mark)) if trace else None
    calls = trace_calls(trace, until=datetime.now(UTC)) if trace else []
    with ExitStack() as stack:
        say("starting PostgreSQL and Redis")
        servers = stack.enter_context(LocalServers(folder))
        stop_left_overs(str(folder.resolve()))
        settings = load_settings(database_url=servers.database_url, redis_url=servers.redis_url)
        say("migrating")
        migrate(servers.database_url, time_zone=settings.usage_timezone)
        connection = stack.enter_context(closing(psycopg.connect(servers.database_url, autocommit=True)))
        today = current_day(settings.timezone)
        if trace:
            events = [as_sent(event) for event in usage_events(calls, seed, mark=mark)]
        else:
            events = made_up_events(seed, datetime.now(UTC), settings, mark)
        planned = Planned.of(events, today, settings, hour_days=_MADE_UP_DAYS)
        # Days that are over: what their statistics count does not depend on when they are made.
        issues_until = day_window(today, settings.timezone).first
        issues = made_up_issues(seed, _MADE_UP_ISSUES, until=issues_until, days=_ISSUE_DAYS)
        issue_days = (issues[0].created_at.astimezone(settings.timezone).date(), today - timedelta(days=1))
        backlog_keys = 0 if traced else _BACKLOG_KEYS
        home = folder.resolve() / "dagster"
        environment = child_environment(
            home,
            database_url=servers.database_url,
            redis_url=servers.redis_url,
            dagster_postgres_url=servers.dagster_postgres_url,
        )
        read_back(connection, settings, planned.days, folder)
        import_own_prices(connection, folder)
        recost_days(connection, planned.days, settings)
        token = create_token(connection, "demo", ["ingest"], expires_in_days=1)
        say("starting the HTTP service")
        with service(folder, environment) as url, ThreadPoolExecutor(1) as sender:
            sending = sender.submit(send_events, url, token.token, planned.sent)
            written, drained = _write_and_drain(
                settings, _shares(traced, writers, seconds, mark), backlog_keys, mark, say
            )
            sent = sending.result()
        revoke_token(connection, token.token_prefix)
        # The service counts its own requests, which are drained like any other's.
        _drain(settings, drained)
        written.counts["token", token.token_id, "usage_count"] = sent.answers["requests"]
        written.malformed["usage_event"] = 1
        written.counts.update(store_issues(connection, issues))
        merchant_days = {date.fromisoformat(key.split(":")[-2]) for key in _keys(written, "merchant")}
        counter_days = sorted(drained.days | merchant_days)
        days = sorted({*counter_days, *planned.days})
        say("aggregating merchant counters")
        aggregate(settings, counter_days)
        say(f"materializing {len(days)} daily partitions in Dagster")
        prepare_home(home)
        os.environ |= {"DAGSTER_POSTGRES_URL": servers.dagster_postgres_url, **EVENT_BATCHES}
        with ThreadPoolExecutor(1, thread_name_prefix="hours") as beside:
            earlier_hours = beside.submit(_make_earlier_hours, settings, planned)
            are_materialized = materialize_days(
                build_definitions({"settings": settings}),
                settings,
                counter_days=counter_days,
                event_days=planned.days,
                hours_from=planned.first_hour_day,
                issue_days=issue_days,
                home=home,
            )
            earlier_hours.result()
        store_late(connection, settings, planned.late)
        if planned.mistake is not None:
            put_right(connection, settings, planned.mistake)
        make_again(connection, settings, planned.changed)
        written.counts.update(counts_of(planned.right))
        ours = Ours(mark, token.token_id, issue_days)
        families = compare(connection, ours, written, sent.answers["rejected"], settings)
        costs = compare_costs(connection, mark, planned.right, settings)
    return DemoResult(
        families=families,
        costs=costs.results,
        uncompared_costs=costs.uncompared_requests,
        requests=written.requests,
        events_sent=sent.answers["received"],
        dropped=written.dropped,
        drains=drained.drains,
        drains_while_writing=drained.while_writing,
        keys_per_second=drained.keys_per_second,
        days=days,
        are_days_materialized=are_materialized,
        findings=[] if trace else findings(costs, planned.mistake, today),
        seconds=time.monotonic() - started,
    )


@dataclass(slots=True)
class _Drained:
    drains: int = 0
    while_writing: int = 0
    most_keys: int = 0
    keys_per_second: float = 0.0
    days: set[date] = field(default_factory=set)


def _write_and_drain(
    settings: Settings, shares: list[Iterator[Request]], backlog_keys: int, mark: str, say: Report
) -> tuple[Written, _Drained]:
    """Writes in threads, each with a share of the requests, while this thread drains. Then it drains a backlog."""
    parts = [Written() for _ in shares]
    drained = _Drained()
    with closing(client(settings)) as foreign:
        write_malformed(foreign, parts[0], mark=mark)
        recorder = Recorder.connect(
            settings.redis_dsn.get_secret_value(), timezone=settings.timezone, timeout_seconds=5
        )
        threads = [
            threading.Thread(target=write, args=(recorder, share, part, settings.timezone), name="writer", daemon=True)
            for share, part in zip(shares, parts, strict=True)
        ]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            _drain(settings, drained)
            drained.while_writing += 1
            requests = counted(sum(part.requests for part in parts), "request")
            say(f"writing and draining: {requests}, {counted(drained.drains, 'drain')}")
            threads[0].join(timeout=0.2)
        for thread in threads:
            thread.join()
        # What a busy machine left without an answer is among the requests that were counted.
        recorder.close(timeout_seconds=60)
        say(f"draining a backlog of {backlog_keys:,} keys")
        write_backlog(foreign, parts[0], backlog_keys, mark=mark)
    _drain(settings, drained)
    total = Written()
    for part in parts:
        total.counts.update(part.counts)
        total.malformed.update(part.malformed)
        total.requests += part.requests
        total.dropped += part.dropped
    return total, drained


def _drain(settings: Settings, drained: _Drained) -> None:
    report = drain_once(settings)
    drained.drains += 1
    if report.keys > drained.most_keys:
        drained.most_keys, drained.keys_per_second = report.keys, report.keys / report.seconds
    for family in report.families:
        drained.days |= family.usage_dates


def _shares(traced: list[Request] | None, writers: int, seconds: float, mark: str) -> list[Iterator[Request]]:
    if traced is not None:
        return [iter(traced[number::writers]) for number in range(writers)]
    return [made_up_requests(seed, seconds, _MADE_UP_DAYS, mark=mark) for seed in range(writers)]


def _make_earlier_hours(settings: Settings, planned: Planned) -> None:
    """Makes the hours that Dagster is not asked for, beside it: to note each of them there takes as long again."""
    until = day_window(planned.first_hour_day, settings.timezone).first
    with closing(connect(settings)) as connection:
        make_again(connection, settings, planned.sent, grains=["hour"], until=until)


def _keys(written: Written, family: str) -> set[str]:
    return {key for its_family, key, _ in written.counts if its_family == family}
