"""`rezone`: everything whose day depends on USAGE_TIMEZONE is made again in it, from what is still there.

It begins by one transaction that settles what is to be done: the new zone, the border, and notes of the windows that must be
made. After a kill, the next call goes on with the notes that are left. Nobody else writes by days until the end
(ops.expect_time_zone).
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import psycopg
from psycopg import sql as compose

from usage_pipeline.rollups.calendar import day_window, month_of, month_window, week_of, week_window, window_at
from usage_pipeline.rollups.daily import SourceGoneError
from usage_pipeline.rollups.issue_stats import ISSUE_STATS_TABLE, replace_issue_stats
from usage_pipeline.rollups.rankings import RANKINGS, replace_rankings
from usage_pipeline.rollups.rezone.border import ZoneBorder, zone_border
from usage_pipeline.rollups.rezone.raw_days import move_raw_days, replace_moved_days
from usage_pipeline.rollups.windows import WindowContendedError, replace_window_in_zone
from usage_pipeline.settings import Settings
from usage_pipeline.storage.chunks.locks import ChunksBusy, changing
from usage_pipeline.storage.sql import load, relation
from usage_pipeline.storage.time_zones import ZONE_LOCK, TimeZoneRefused, expect_same_zone
from usage_pipeline.texts import counted

_EVENTS = "analytics.usage_events"
_BEFORE_ALL = datetime(1970, 1, 1, tzinfo=UTC)
_DAY, _INSTANT = timedelta(days=1), timedelta(microseconds=1)
log = logging.getLogger(__name__)


@dataclass(slots=True)
class RezoneReport:
    """What a rezone did. Usage events of days before `kept_before` (None: of no day) stay in `kept_in`, the earlier zone."""

    time_zone: str
    earlier_zone: str
    rows_moved: int = 0
    days_made: int = 0
    windows_made: int = 0
    kept_before: date | None = None
    kept_in: str | None = None
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Plan:
    """From which moment on windows of usage events are made again, and the border there; `first` None: none are."""

    first: datetime | None
    border: ZoneBorder | None
    replaced: ZoneBorder | None = None


def rezone(connection: psycopg.Connection, settings: Settings, *, now: datetime | None = None) -> RezoneReport:
    """Makes all days again in USAGE_TIMEZONE, on an autocommit connection. It is safe to run again, and goes on after a kill.

    Raises TimeZoneRefused when the server does not know the zone, or a rezone to another zone was interrupted; ChunksBusy when
    another process keeps the time zone, or the partitions, busy.
    """
    now = now or datetime.now(UTC)
    zone = settings.timezone
    expect_same_zone(connection, zone.key, today=now.date())
    with _only_one(connection):
        earlier, is_interrupted = _calendar(connection)
        if is_interrupted and earlier != zone.key:
            raise TimeZoneRefused(
                f"USAGE_TIMEZONE: expected {earlier}, to which a rezone was interrupted, came {zone.key}; "
                f"run it again with {earlier} first"
            )
        if not is_interrupted:
            _begin(connection, ZoneInfo(earlier), zone)
        report = RezoneReport(zone.key, earlier)
        report.rows_moved = move_raw_days(connection, zone, report.problems)
        today = now.astimezone(zone).date()
        report.days_made = replace_moved_days(connection, today=today, problems=report.problems)
        border = zone_border(connection)
        _make_windows(connection, border, settings, now, report)
        _make_statistics(connection, border, settings, now)
        connection.execute("update ops.calendar set rezoning_since = null")
    if border:
        report.kept_before, report.kept_in = border.first_day, border.earlier_zone
        report.problems.append(
            f"{_EVENTS}: days before {border.first_day} stay in {border.earlier_zone}: events of theirs are only in archives, "
            f"or were dropped. {border.first_day} begins at {border.first_moment.astimezone(UTC):%Y-%m-%d %H:%M}Z, where they "
            "end. What is archived can be read back with `usage-pipeline archive restore` (`usage-pipeline archive list`), and "
            "`usage-pipeline rezone` run again; what was dropped stays"
        )
    return report


@contextmanager
def _only_one(connection: psycopg.Connection) -> Iterator[None]:
    [(is_free,)] = connection.execute("select pg_try_advisory_lock(hashtext('rezone'), 0)").fetchall()
    if not is_free:
        raise ChunksBusy("another rezone is running; try again later")
    try:
        yield
    finally:
        if not connection.closed and not connection.broken:
            connection.execute("select pg_advisory_unlock(hashtext('rezone'), 0)")


def _calendar(connection: psycopg.Connection) -> tuple[str, bool]:
    try:
        [(time_zone, is_interrupted)] = connection.execute(
            "select time_zone, rezoning_since is not null from ops.calendar"
        ).fetchall()
    except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn):
        raise TimeZoneRefused(
            "expected the newest schema, came an older one or none; run: usage-pipeline migrate"
        ) from None
    return time_zone, is_interrupted


def _begin(connection: psycopg.Connection, earlier: ZoneInfo, zone: ZoneInfo) -> None:
    # No lifecycle run takes events away between the look at them and the notes.
    with changing(connection, _EVENTS):
        plan = _plan(connection, earlier, zone)
        try:
            with connection.transaction():
                # All who began with the earlier zone have ended, or fail.
                connection.execute("select pg_advisory_xact_lock(%s)", (ZONE_LOCK,))
                connection.execute(load("rollups/rezone/begin_rezone"), {"time_zone": zone.key})
                if plan.replaced:
                    gone = (plan.replaced.first_moment,)
                    connection.execute("delete from ops.zone_borders where first_moment = %s", gone)
                if plan.border:
                    connection.execute(load("rollups/rezone/insert_zone_border"), _parameters(plan.border))
                _note_windows(connection, plan, earlier, zone)
        except psycopg.errors.LockNotAvailable:
            raise ChunksBusy("a process that writes by days did not end in time; try again later") from None


def _parameters(border: ZoneBorder) -> dict[str, object]:
    return {
        "first_moment": border.first_moment,
        "first_day": border.first_day,
        "earlier_zone": border.earlier_zone,
    }


def _plan(connection: psycopg.Connection, earlier: ZoneInfo, zone: ZoneInfo) -> _Plan:
    prior = zone_border(connection)
    days = _days(connection, earlier)
    if earlier.key != zone.key:
        since = prior.first_day if prior else date.min
        incomplete = _newest_incomplete(connection, [day for day in days if day >= since], earlier, prior)
        if incomplete:
            return _plan_from(incomplete + _DAY, earlier, zone, None)
        if prior:
            border = ZoneBorder(prior.first_moment, _first_day(prior, zone), prior.earlier_zone)
            return _Plan(border.first_moment, border)
        return _Plan(_BEFORE_ALL, None)
    if prior is None:
        return _Plan(None, None)
    # Some of the kept days may be there again: their archives were read back.
    kept = ZoneInfo(prior.earlier_zone)
    older = _older_border(connection, prior)
    since = older.first_day if older else date.min
    incomplete = _newest_incomplete(connection, [day for day in days if since <= day < prior.first_day], kept, older)
    if incomplete is None:
        return _Plan(older.first_moment if older else _BEFORE_ALL, None, prior)
    if incomplete + _DAY >= prior.first_day:
        return _Plan(None, None)
    return _plan_from(incomplete + _DAY, kept, zone, prior)


def _plan_from(day: date, earlier: ZoneInfo, zone: ZoneInfo, replaced: ZoneBorder | None) -> _Plan:
    """Days from this one on, as the earlier zone has them, are made again."""
    first = day_window(day, earlier).first
    border = ZoneBorder(first, max(day, first.astimezone(zone).date()), earlier.key)
    return _Plan(first, border, replaced)


def _first_day(border: ZoneBorder, zone: ZoneInfo) -> date:
    return max(border.first_day, border.first_moment.astimezone(zone).date())


def _older_border(connection: psycopg.Connection, border: ZoneBorder) -> ZoneBorder | None:
    row = connection.execute(
        "select first_moment, first_day, earlier_zone from ops.zone_borders where first_moment < %s "
        "order by first_moment desc limit 1",
        (border.first_moment,),
    ).fetchone()
    return ZoneBorder(*row) if row else None


def _days(connection: psycopg.Connection, earlier: ZoneInfo) -> list[date]:
    rows = connection.execute(load("rollups/rezone/select_days_of_events"), {"timezone": earlier.key})
    return [day for (day,) in rows]


def _newest_incomplete(
    connection: psycopg.Connection, days: Sequence[date], earlier: ZoneInfo, border: ZoneBorder | None
) -> date | None:
    windows = [day_window(day, earlier) for day in days]
    firsts = [border.first_moment if border and window.day == border.first_day else window.first for window in windows]
    arguments = {"days": list(days), "firsts": firsts, "untils": [window.end for window in windows]}
    row = connection.execute(load("rollups/rezone/select_incomplete_days"), arguments).fetchone()
    return row[0] if row else None


def _note_windows(connection: psycopg.Connection, plan: _Plan, earlier: ZoneInfo, zone: ZoneInfo) -> None:
    first, border, replaced = plan.first, plan.border, plan.replaced
    if first is None:
        return
    # Days before the border that is replaced are of the zone before it.
    kept = ZoneInfo(replaced.earlier_zone) if replaced else earlier
    old = [
        day_window(day, kept if replaced and day < replaced.first_day else earlier)
        for day in _days(connection, earlier)
    ]
    moved: set[date] = set()
    for window in old:
        if window.end <= first:
            continue
        day, last = (moment.astimezone(zone).date() for moment in (max(window.first, first), window.end - _INSTANT))
        moved |= {window.day, *(day + count * _DAY for count in range((last - day).days + 1))}
    days = sorted(day for day in moved if border is None or day >= border.first_day)
    weeks, months = {week_of(day) for day in days}, {month_of(day) for day in days}
    for grain, day in connection.execute(
        load("rollups/rezone/select_touched_longer"), {"timezone": earlier.key}
    ).fetchall():
        (weeks if grain == "week" else months).add(day)
    arguments = {
        "first": first,
        "timezone": zone.key,
        "hours_move": _hours_move(days, kept, zone),
        "days": [day_window(day, zone).start for day in days],
        "weeks": [week_window(day, zone).start for day in sorted(weeks)],
        "months": [month_window(day, zone).start for day in sorted(months)],
    }
    connection.execute(load("rollups/rezone/note_windows"), arguments)
    bounds = [border.window(day_window(day, zone), zone) if border else day_window(day, zone) for day in days]
    prices = {
        "days": days,
        "firsts": [window.first for window in bounds],
        "untils": [window.end for window in bounds],
    }
    connection.execute(load("rollups/rezone/move_day_prices"), prices)


def _hours_move(days: Sequence[date], earlier: ZoneInfo, zone: ZoneInfo) -> bool:
    """Whether hours of the two zones begin at other moments on any of these days."""
    for day in days:
        noon = datetime(day.year, day.month, day.day, 12, tzinfo=UTC)
        offsets = [noon.astimezone(one).utcoffset() or timedelta(0) for one in (earlier, zone)]
        if (offsets[0] - offsets[1]) % timedelta(hours=1):
            return True
    return False


def _make_windows(
    connection: psycopg.Connection,
    border: ZoneBorder | None,
    settings: Settings,
    now: datetime,
    report: RezoneReport,
) -> None:
    first = border.first_moment - _DAY if border else _BEFORE_ALL
    rows = connection.execute(load("rollups/rezone/select_touched_windows"), {"first": first}).fetchall()
    log.info("rezone: %s to make", counted(len(rows), "window"))
    for grain, start in rows:
        window = window_at(grain, start, settings.timezone)
        try:
            replace_window_in_zone(connection, window, settings=settings, now=now, keeps_tags=True)
            report.windows_made += 1
        except (SourceGoneError, WindowContendedError) as problem:
            report.problems.append(str(problem))


def _make_statistics(
    connection: psycopg.Connection, border: ZoneBorder | None, settings: Settings, now: datetime
) -> None:
    today = now.astimezone(settings.timezone).date()
    # Days of the earlier zone that have not begun in this one: the newest that was made would be one of them.
    connection.execute("delete from ops.made_dates where date > %s", (today,))
    for table, column in ((ISSUE_STATS_TABLE, "date"), *((ranking.table, "ranking_date") for ranking in RANKINGS)):
        query = compose.SQL("delete from {} where {} > %s").format(relation(table), compose.Identifier(column))
        connection.execute(query, (today,))
    [(oldest, newest)] = connection.execute("select min(date), max(date) from stats.daily_issue_stats").fetchall()
    if oldest is not None:
        replace_issue_stats(connection, oldest, newest, settings=settings, now=now)
    for ranking in RANKINGS:
        # Also those that came out empty: an issue or a request may be of their days now.
        made = "select date from ops.made_dates where table_name = %s order by 1"
        days = [day for (day,) in connection.execute(made, (ranking.table,)).fetchall()]
        # Rankings of usage are made from daily tables: of kept days, they stay right.
        is_of_usage = not ranking.name.startswith("issues")
        wanted = [day for day in days if not (is_of_usage and border and day < border.first_day)]
        if wanted:
            replace_rankings(connection, ranking, wanted, settings=settings)
