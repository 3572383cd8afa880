"""Roll-ups of usage events by hour, day, week and month. A window is replaced as a whole, so a re-run is safe.

Hours and days are made from events. A day also stores its users and latencies, from which weeks and months are merged exactly.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
from psycopg import sql as compose
from psycopg.types.json import Jsonb

from usage_pipeline.events.pricing import lookups
from usage_pipeline.rollups import day_prices
from usage_pipeline.rollups.calendar import Window, day_window, month_of, month_window, week_of, week_window
from usage_pipeline.rollups.daily import SourceGoneError
from usage_pipeline.rollups.dropped.kept import WindowSource, keep_stored, window_source
from usage_pipeline.rollups.rezone.border import windows_to_make, zone_border, zone_borders
from usage_pipeline.rollups.window_tables import DAY_PARTS, MOST_TAG_VALUES, WINDOW_TABLES, WindowTable
from usage_pipeline.settings import Settings
from usage_pipeline.storage.chunks.locks import reading_with_one_snapshot
from usage_pipeline.storage.postgres import is_rolled_back, waiting_for_locks
from usage_pipeline.storage.sql import load
from usage_pipeline.storage.time_zones import in_time_zone
from usage_pipeline.texts import counted

log = logging.getLogger(__name__)

# Each of these makes one attempt fail: the day has no prices yet, models are new, another transaction changed the same rows.
_ATTEMPTS = 5
_LOCK_SECONDS = 300.0
# With less memory, PostgreSQL sorts and hashes a day of events on disk. With jit, compiling a query takes longer than running
# it. With nestloop, the planner may compare each row of a day with each other row: it takes a day that is newer than its
# statistics for empty. With mergejoin, it sorts two days of users by five texts, since it takes one of them for small.
_PLANNING = (
    "set local work_mem = '64MB'; set local jit = off; "
    "set local enable_nestloop = off; set local enable_mergejoin = off"
)


class WindowContendedError(Exception):
    """In every attempt, another transaction changed what the roll-up reads or writes."""


@dataclass(frozen=True, slots=True)
class WindowReport:
    """The result of replacing a window. `sums` has `rows` and the total of each count. `is_late`: a past window changed.

    `kept_requests` are those of `sums` whose events were dropped. `uncounted_events` came late for a window that must stay,
    since nobody knows how much of it was dropped.
    """

    window: Window
    rows: int
    changed_rows: int
    sums: Mapping[str, Any]
    is_late: bool
    price_version: str | None
    kept_requests: int = 0
    uncounted_events: int = 0


def replace_window(
    connection: psycopg.Connection,
    window: Window,
    *,
    settings: Settings,
    now: datetime | None = None,
    keeps_tags: bool = False,
) -> WindowReport:
    """Replaces one window in one transaction on an autocommit connection.

    It contains what was stored when it began. Events that are stored meanwhile leave the window stale. If a window was rolled
    up after its end and changes now, ops.late_data gets a row. A day that changes makes its week and month stale.
    Where events were dropped, it is what was stored of them and the events that are there now.
    A day gets the tags of ROLLUP_TAGS; with `keeps_tags`, one that was made before keeps the tags that it has.
    Raises TimeZoneRefused when the days of the database are in another time zone, SourceGoneError when events are only in an
    archive, WindowContendedError after too many attempts, and psycopg.errors.LockNotAvailable when another roll-up of the
    window takes longer than five minutes.
    """
    now = now or datetime.now(UTC)
    with in_time_zone(connection, settings.usage_timezone):
        return replace_window_in_zone(connection, window, settings=settings, now=now, keeps_tags=keeps_tags)


def replace_window_in_zone(
    connection: psycopg.Connection, window: Window, *, settings: Settings, now: datetime, keeps_tags: bool = False
) -> WindowReport:
    """`replace_window` for a caller that has seen to it that days are in USAGE_TIMEZONE.

    Before a border of time zones it makes the hours or days of the earlier zone that overlap the window, each in a transaction;
    the report is that of the one of its name.
    """
    parts = windows_to_make(connection, window, settings.timezone, zone_borders(connection))
    if parts == [(window, settings.timezone)]:
        return _replace_one(connection, window, settings.timezone, settings, now, keeps_tags=keeps_tags)
    # Days of an earlier zone have other bounds. A note goes when all that it may mean are made: events whose notes are here now
    # are seen by all of them.
    asked = {"grain": window.grain, "window_start": window.start, "timezone": settings.timezone.key}
    notes = connection.execute(load("rollups/rezone/select_window_notes"), asked).fetchall()
    reports = [
        _replace_one(connection, part, zone, settings, now, keeps_tags=keeps_tags, is_touched=bool(notes))
        for part, zone in parts
    ]
    seen = {"places": [place for place, _ in notes], "times": [touched_at for _, touched_at in notes]}
    connection.execute(load("rollups/rezone/forget_window_notes"), seen)
    return next((report for report in reports if report.window.day == window.day), reports[-1])


def _replace_one(
    connection: psycopg.Connection,
    window: Window,
    zone: ZoneInfo,
    settings: Settings,
    now: datetime,
    *,
    keeps_tags: bool,
    is_touched: bool | None = None,
) -> WindowReport:
    """Replaces a window of `zone`. `is_touched`: whether it has notes, which the caller removes. None: it removes them."""
    with _one_at_a_time(connection, window), reading_with_one_snapshot(connection, "analytics.usage_events"):
        for _ in range(_ATTEMPTS):
            try:
                return _attempt(connection, window, settings, now, is_touched, keeps_tags=keeps_tags)
            except _NoPrices:
                day_prices.pin(connection, day_window(window.day, zone))
            except _NewModels as new:
                lookups.add_lookups(connection, new.price_version, new.models)
            except psycopg.Error as error:
                if not is_rolled_back(error):
                    raise
    raise WindowContendedError(
        f"{window}: expected a roll-up within {_ATTEMPTS} attempts, came other changes each time; try again"
    )


class _NoPrices(Exception):
    """The day has events, but no price version yet."""


class _NewModels(Exception):
    """The prices of these (provider, model, service tier) were not looked up yet in the version."""

    def __init__(self, price_version: str, models: list[tuple[str, str, str]]) -> None:
        super().__init__(counted(len(models), "model"))
        self.price_version = price_version
        self.models = models


@contextmanager
def _one_at_a_time(connection: psycopg.Connection, window: Window) -> Iterator[None]:
    """Holds the lock of the window. The session holds it, not the transaction: it must be taken before the snapshot."""
    key = (WINDOW_TABLES[window.grain].table, window.start.isoformat())
    with waiting_for_locks(connection, _LOCK_SECONDS):
        connection.execute("select pg_advisory_lock(hashtext(%s), hashtext(%s))", key)
        try:
            yield
        finally:
            if not connection.closed:
                connection.execute("select pg_advisory_unlock(hashtext(%s), hashtext(%s))", key)


def _attempt(
    connection: psycopg.Connection,
    window: Window,
    settings: Settings,
    now: datetime,
    is_touched: bool | None,
    *,
    keeps_tags: bool,
) -> WindowReport:
    table = WINDOW_TABLES[window.grain]
    with connection.transaction():
        connection.execute("set transaction isolation level repeatable read")
        connection.execute(_PLANNING)
        # The roll-up will contain everything that this snapshot sees. Notes that others commit meanwhile stay.
        mine = (window.grain, window.start)
        if is_touched is None:
            forget = "delete from ops.touched_windows where grain = %s and window_start = %s"
            is_touched = connection.execute(forget, mine).rowcount > 0
        source = _expect_source(connection, window, settings, now) if window.grain in ("hour", "day") else None
        version = _price_version(connection, window, source)
        parameters = _parameters(window, version)
        if version is not None and lookups.is_looked_up(version):
            models = connection.execute(load("rollups/select_unlooked_models"), parameters).fetchall()
            if models:
                raise _NewModels(version, models)
        was_rolled_when_closed = _was_rolled_when_closed(connection, window)
        before = _sums(connection, table, parameters)
        kept_requests = 0
        if source is not None and source.is_dropped:
            if _is_all_there_is(source, before["requests"]):
                is_told = is_touched and source.has_events
                return _left_as_it_is(connection, window, before, version, source, is_told=is_told)
            if source.is_wholly_dropped and not source.is_kept:
                keep_stored(connection, window, parameters)
        of_tags = _tag_parameters(settings, keeps_tags=keeps_tags and before["rows"] > 0)
        changed_parts, (rows, changed_rows) = _replace(connection, window, parameters | of_tags)
        after = _sums(connection, table, parameters)
        if source is not None and source.is_dropped:
            kept_requests = after["requests"] - source.events
        is_late = was_rolled_when_closed and window.is_closed(now) and changed_rows > 0
        if is_late:
            late = {"table_name": table.table, "usage_date": window.day, "window_start": window.start}
            # In both, since it is no correction: it says how much of the window has no events any more.
            kept = {"kept_requests": kept_requests} if kept_requests else {}
            told = {"before": Jsonb({**before, **kept}), "after": Jsonb({**after, **kept})}
            connection.execute(load("rollups/insert_late_window"), {**late, **told})
        if window.grain == "day" and changed_parts + changed_rows:
            _touch_longer_windows(connection, window, settings)
        rolled = {"grain": window.grain, "window_start": window.start, "rows": rows}
        connection.execute(load("rollups/mark_window_rolled"), rolled)
    return WindowReport(window, rows, changed_rows, after, is_late, version, kept_requests)


def _parameters(window: Window, price_version: str | None) -> dict[str, object]:
    return {
        "window": window.start if window.grain == "hour" else window.day,
        "first": window.first,
        "until": window.end,
        "first_day": window.day,
        "next_day": window.next_day,
        "price_version": price_version,
    }


def _tag_parameters(settings: Settings, *, keeps_tags: bool) -> dict[str, object]:
    return {"rollup_tags": None if keeps_tags else list(settings.tags), "most_values": MOST_TAG_VALUES}


def _replace(
    connection: psycopg.Connection, window: Window, parameters: Mapping[str, object]
) -> tuple[int, tuple[int, int]]:
    """The changed rows of the parts of a day, then the rows and changed rows of the window's own table."""
    table = WINDOW_TABLES[window.grain]
    if window.grain == "hour":
        return 0, _counts(connection, table.replacement(), parameters)
    changed_parts = 0
    if window.grain == "day":
        for part in DAY_PARTS:
            changed_parts += _counts(connection, part.replacement(), parameters)[1]
    return changed_parts, _counts(connection, table.replacement("rollups/replace_merged_windows"), parameters)


def _counts(
    connection: psycopg.Connection, query: compose.Composed, parameters: Mapping[str, object]
) -> tuple[int, int]:
    [(rows, changed_rows)] = connection.execute(query, parameters).fetchall()
    return rows, changed_rows


def _price_version(connection: psycopg.Connection, window: Window, source: WindowSource | None) -> str | None:
    """The price version of an hour or day. None for a day without events."""
    if source is None:
        return None
    version = day_prices.price_version_of(connection, window.day)
    if version is None and source.has_events:
        raise _NoPrices
    return version


def expect_whole_source(connection: psycopg.Connection, window: Window, *, settings: Settings, now: datetime) -> Window:
    """The window as it is made: a day that begins at a border of time zones is longer or shorter.

    Raises SourceGoneError when an hour or day had events that are not in the table now: archived or dropped.
    """
    if border := zone_border(connection):
        window = border.window(window, settings.timezone)
    if _expect_source(connection, window, settings, now).is_dropped:
        raise SourceGoneError(
            f"{window}: expected all its events in analytics.usage_events, came none or only later ones: they were dropped "
            "at the end of the retention. The roll-up stays as it is"
        )
    return window


def _expect_source(connection: psycopg.Connection, window: Window, settings: Settings, now: datetime) -> WindowSource:
    is_old = window.first < now - timedelta(days=settings.retention_days)
    source = window_source(connection, window, counts_events=is_old)
    if source.is_in_file:
        raise SourceGoneError(
            f"{window}: expected its events in analytics.usage_events, came none: they are in an archive. The roll-up stays as "
            f"it is. Read them back with `usage-pipeline archive restore {window.day}`"
        )
    if is_old and not source.is_dropped:
        # Whatever the pipeline drops has a mark. Events that somebody else removed have none.
        stored = _sums(connection, WINDOW_TABLES[window.grain], _parameters(window, None))["requests"]
        if source.events < stored:
            raise SourceGoneError(
                f"{window}: expected the {stored} events in analytics.usage_events that it was rolled up from, came "
                f"{source.events}: it is older than RETENTION_DAYS={settings.retention_days}. The roll-up stays as it is"
            )
    return source


def _is_all_there_is(source: WindowSource, stored_requests: int) -> bool:
    """Whether a window with dropped events must stay as it is: no other events came, or nobody knows what was dropped of it."""
    if source.is_wholly_dropped and not source.is_kept:
        return not source.has_events
    if not source.edges_kept:
        # What is kept, if anything is, lacks a share.
        return stored_requests > 0
    return not source.is_kept and source.events < stored_requests


def _left_as_it_is(
    connection: psycopg.Connection,
    window: Window,
    stored: Mapping[str, Any],
    version: str | None,
    source: WindowSource,
    *,
    is_told: bool,
) -> WindowReport:
    uncounted = source.events if source.has_events else 0
    if is_told:
        log.warning(
            "%s: part of its events was dropped, so it stays as it is; it has %s", window, counted(uncounted, "event")
        )
        late = {"table_name": WINDOW_TABLES[window.grain].table, "usage_date": window.day, "window_start": window.start}
        told = {**stored, "uncounted_events": uncounted}
        connection.execute(load("rollups/insert_late_window"), {**late, "before": Jsonb(stored), "after": Jsonb(told)})
    rolled = {"grain": window.grain, "window_start": window.start, "rows": stored["rows"]}
    connection.execute(load("rollups/mark_window_rolled"), rolled)
    return WindowReport(window, stored["rows"], 0, stored, False, version, stored["requests"], uncounted)


def _was_rolled_when_closed(connection: psycopg.Connection, window: Window) -> bool:
    row = connection.execute(
        "select rolled_at >= %s from ops.rolled_windows where grain = %s and window_start = %s",
        (window.end, window.grain, window.start),
    ).fetchone()
    return bool(row and row[0])


def _sums(connection: psycopg.Connection, table: WindowTable, parameters: Mapping[str, object]) -> dict[str, Any]:
    [(sums,)] = connection.execute(table.compose("rollups/sum_usage_windows"), parameters).fetchall()
    return dict(sums)


def _touch_longer_windows(connection: psycopg.Connection, day: Window, settings: Settings) -> None:
    time_zone = settings.timezone
    week, month = week_window(week_of(day.day), time_zone), month_window(month_of(day.day), time_zone)
    connection.execute(
        "insert into ops.touched_windows (grain, window_start) values ('week', %s), ('month', %s)",
        (week.start, month.start),
    )
