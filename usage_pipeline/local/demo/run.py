"""`usage-pipeline demo`: writes and drains at the same time on local servers, then compares both sides."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg

from usage_pipeline.access.tokens import create_token, revoke_token
from usage_pipeline.definitions import build_definitions
from usage_pipeline.defs.run_now import materialize_days
from usage_pipeline.drain.rounds import drain_once
from usage_pipeline.local.demo.comparison import FamilyResult, Ours, compare
from usage_pipeline.local.demo.events import send_events, service, store_late
from usage_pipeline.local.processes.children import stop_left_overs
from usage_pipeline.local.processes.dagster import EVENT_BATCHES, child_environment, prepare_home, project_folder
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
from usage_pipeline.local.traffic.events import made_up_calls, trace_calls, usage_events
from usage_pipeline.local.traffic.issues import made_up_issues, store_issues
from usage_pipeline.merchants.aggregation import aggregate
from usage_pipeline.recording.recorder import Recorder
from usage_pipeline.rollups.calendar import day_window
from usage_pipeline.rollups.daily import current_day
from usage_pipeline.settings import Settings, load_settings
from usage_pipeline.storage.migrations import migrate
from usage_pipeline.storage.redis import client

# Two weeks, so that analysts can compare them.
_MADE_UP_DAYS = 14
_MADE_UP_EVENTS = 5_000
_BACKLOG_KEYS = 20_000
_LATE_EVENTS, _LATE_DAYS_AGO = 20, 3
_MADE_UP_ISSUES, _ISSUE_DAYS = 240, 42
Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class DemoResult:
    """The result of the demo. `keys_per_second` is the speed of the drain with the most keys."""

    families: list[FamilyResult]
    requests: int
    events_sent: int
    dropped: int
    drains: int
    drains_while_writing: int
    keys_per_second: float
    days: list[date]
    are_days_materialized: bool
    seconds: float

    @property
    def difference(self) -> int:
        return sum(family.difference for family in self.families)


def run_demo(folder: Path, *, trace: Path | None, seconds: float, writers: int, say: Report) -> DemoResult:
    """Runs the demo with embedded servers. Their data stay in `folder`, where `usage-pipeline dev` finds them.

    Raises AlreadyRunningError while another process uses the folder, and TraceError or OSError for a bad trace.
    """
    started = time.monotonic()
    # Read as a whole before anything starts, so that a broken file is told at once.
    seed = int(time.time())
    mark = str(seed)
    traced = list(trace_requests(trace, mark=mark)) if trace else None
    calls = (
        trace_calls(trace, until=datetime.now(UTC)) if trace else made_up_calls(seed, _MADE_UP_EVENTS, _MADE_UP_DAYS)
    )
    events = list(usage_events(calls, seed, mark=mark))
    with ExitStack() as stack:
        say("starting PostgreSQL and Redis")
        servers = stack.enter_context(LocalServers(folder))
        stop_left_overs(str(folder.resolve()))
        settings = load_settings(database_url=servers.database_url, redis_url=servers.redis_url)
        say("migrating")
        migrate(servers.database_url, time_zone=settings.usage_timezone)
        connection = stack.enter_context(closing(psycopg.connect(servers.database_url, autocommit=True)))
        today = current_day(settings.timezone)
        events, late = _held_back(events, today - timedelta(days=_LATE_DAYS_AGO), settings)
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
        token = create_token(connection, "demo", ["ingest"], expires_in_days=1)
        say("starting the HTTP service")
        with service(folder, environment) as url, ThreadPoolExecutor(1) as sender:
            sending = sender.submit(send_events, url, token.token, events)
            written, drained = _write_and_drain(
                settings, _shares(traced, writers, seconds, mark), backlog_keys, mark, say
            )
            sent = sending.result()
        revoke_token(connection, token.token_prefix)
        # The service counts its own requests, which are drained like any other's.
        _drain(settings, drained)
        written.counts.update(sent.counts)
        written.counts["token", token.token_id, "usage_count"] = sent.answers["requests"]
        written.malformed["usage_event"] = 1
        written.counts.update(store_issues(connection, issues))
        event_days = {_day_of(event, settings) for event in events}
        merchant_days = {date.fromisoformat(key.split(":")[-2]) for key in _keys(written, "merchant")}
        days = sorted(drained.days | merchant_days | event_days)
        say("aggregating merchant counters")
        aggregate(settings, days)
        say(f"materializing {len(days)} daily partitions in Dagster")
        prepare_home(home, project_folder(), code_server_port=0)
        os.environ |= {"DAGSTER_POSTGRES_URL": servers.dagster_postgres_url, **EVENT_BATCHES}
        are_materialized = materialize_days(
            build_definitions({"settings": settings}),
            settings,
            days,
            issue_days=issue_days,
            home=home,
        )
        written.counts.update(store_late(connection, settings, late))
        ours = Ours(mark, token.token_id, issue_days)
        families = compare(connection, ours, written, sent.answers["rejected"], settings)
    return DemoResult(
        families=families,
        requests=written.requests,
        events_sent=sent.answers["received"],
        dropped=written.dropped,
        drains=drained.drains,
        drains_while_writing=drained.while_writing,
        keys_per_second=drained.keys_per_second,
        days=days,
        are_days_materialized=are_materialized,
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
            say(f"writing and draining: {sum(part.requests for part in parts):,} requests, {drained.drains} drains")
            threads[0].join(timeout=0.2)
        for thread in threads:
            thread.join()
        recorder.close()
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


def _held_back(
    events: list[dict[str, Any]], day: date, settings: Settings
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The events without the last few of a past day, and these few: their client sends them after the day was rolled up."""
    late = [event for event in events if _day_of(event, settings) == day][-_LATE_EVENTS:]
    held_back = {event["event_id"] for event in late}
    return [event for event in events if event["event_id"] not in held_back], late


def _day_of(event: dict[str, Any], settings: Settings) -> date:
    return datetime.fromisoformat(event["event_time"]).astimezone(settings.timezone).date()


def _keys(written: Written, family: str) -> set[str]:
    return {key for its_family, key, _ in written.counts if its_family == family}
