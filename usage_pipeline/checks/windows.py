"""Rules between events, the registry of their ids, and hours, days, weeks and months. A check returns one line per fault."""

from collections.abc import Iterator, Sequence
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

import psycopg

from usage_pipeline.checks.counters import MOST_FAULTS
from usage_pipeline.events.otlp.names import UNKNOWN
from usage_pipeline.events.pricing.explanation import why_unpriced
from usage_pipeline.events.pricing.own_versions import newest_version, own_prices
from usage_pipeline.rollups import calendar
from usage_pipeline.rollups.calendar import Window
from usage_pipeline.rollups.window_tables import WINDOW_TABLES
from usage_pipeline.storage.sql import load
from usage_pipeline.texts import counted

# A closed hour is rolled up five minutes after its end; a day of trouble fits in the retries of two hours.
_HOURS_TO_ROLL_UP = timedelta(hours=2)
LARGEST_ERROR_SHARE = 0.2
_FEWEST_REQUESTS = 20


def day_count_faults(connection: psycopg.Connection, first: date, last: date, time_zone: ZoneInfo) -> list[str]:
    """Days (both included) whose events, registry, hours and day do not agree. Hours and day count once they are up to date."""
    rows = connection.execute(load("checks/select_day_counts"), _span(first, last, time_zone))
    return [
        f"{day}: {counted(stored, 'event')}, {registered} in the registry, {_said(hourly)} in hours, {_said(daily)} in the day"
        for day, stored, registered, hourly, daily in rows
        if len({stored, registered, hourly, daily} - {None}) > 1
    ]


def conflict_faults(connection: psycopg.Connection, since: datetime) -> list[str]:
    """Items that came since then with the id of another item."""
    rows = connection.execute(load("checks/select_recent_conflicts"), {"since": since})
    return [
        f"{kind} {event_id}: came {counted(times, 'time')} with other content, last {at:%Y-%m-%d %H:%M}Z"
        for event_id, kind, times, at in rows
    ]


def hour_gap_faults(
    connection: psycopg.Connection, first: date, last: date, time_zone: ZoneInfo, now: datetime
) -> list[str]:
    """Hours without requests that come after an hour with some, and hours that are not rolled up although they should be."""
    span = _span(first, last, time_zone)
    used = [start for (start,) in connection.execute(load("checks/select_hours_with_usage"), span)]
    over = [hour for hour in _hours(first, last, time_zone) if hour.end + _HOURS_TO_ROLL_UP <= now]
    gaps = [f"{hour}: no requests" for hour in over if used and used[0] < hour.start and hour.start not in set(used)]
    stale = connection.execute(
        "select distinct window_start from ops.touched_windows where grain = 'hour' order by window_start"
    ).fetchall()
    late = {hour.start for hour in over} & {start for (start,) in stale}
    return gaps + [f"hour {start:%Y-%m-%dT%H:%MZ}: not rolled up since its events changed" for start in sorted(late)]


def overdue_window_faults(
    connection: psycopg.Connection, grain: calendar.Grain, now: datetime, time_zone: ZoneInfo
) -> list[str]:
    """Windows that ended two hours ago, and whose events changed more than two hours ago without a roll-up since."""
    return [
        f"{calendar.window_at(grain, start, time_zone)}: not rolled up since its events changed at {at:%Y-%m-%d %H:%M}Z"
        for start, at in overdue_windows(connection, grain, now, time_zone.key)
    ]


def overdue_windows(
    connection: psycopg.Connection, grain: calendar.Grain, now: datetime, time_zone: str
) -> list[tuple[datetime, datetime]]:
    """The starts of overdue windows, each with the time at which its events changed."""
    arguments = {"grain": grain, "now": now, "timezone": time_zone, "most": MOST_FAULTS}
    return connection.execute(load("checks/select_overdue_windows"), arguments).fetchall()


def error_share_faults(connection: psycopg.Connection, first: date, last: date) -> list[str]:
    """Services of which more than a fifth of the requests failed."""
    rows = connection.execute(load("checks/select_error_shares"), {"first_day": first, "last_day": last})
    return [
        f"{service}: {errors} of {counted(requests, 'request')} failed ({errors / requests:.0%})"
        for service, requests, errors in rows
        if requests >= _FEWEST_REQUESTS and errors > LARGEST_ERROR_SHARE * requests
    ]


def unknown_share_faults(connection: psycopg.Connection, first: date, last: date) -> list[str]:
    """Services with requests of which the team, or the service itself, is `unknown`; most such requests first."""
    days = {"first_day": first, "last_day": last, "unknown": UNKNOWN}
    return [
        f"{service}: {unknown} of {requests} requests have the team or the service {UNKNOWN} ({unknown / requests:.0%})"
        for service, requests, unknown in connection.execute(load("checks/select_unknown_shares"), days)
    ]


def unpriced_faults(connection: psycopg.Connection, first: date, last: date) -> list[str]:
    """Models with requests without a list price, most requests first; then tiers that have no price and cost as usual."""
    days = {"first_day": first, "last_day": last}
    models = connection.execute(load("checks/select_unpriced_models"), days).fetchall()
    tiers = connection.execute(load("checks/select_unpriced_tiers"), days).fetchall()
    own = own_prices(connection, newest_version(connection))
    return [
        f"{provider}/{model}: {counted(requests, 'request')}, "
        + (f"{reported} of them with the cost that their senders report, " if reported else "")
        + (
            "a count is not known, or no price holds for it"
            if is_known
            # The search for the nearest name takes time, and no more than these are shown.
            else why_unpriced(provider, model, own)
            if place < MOST_FAULTS
            else "unknown model"
        )
        for place, (provider, model, requests, reported, is_known) in enumerate(models)
    ] + [
        f"{provider}/{model}: there is no price of the tier {tier}, so it costs as usual"
        for provider, model, tier in tiers
    ]


def merged_window_faults(connection: psycopg.Connection, windows: Sequence[Window]) -> list[str]:
    """Weeks or months that are not the sums of their days."""
    faults = []
    for window in windows:
        query = WINDOW_TABLES[window.grain].compose("checks/select_window_mismatches")
        bounds = {"first_day": window.day, "next_day": window.next_day}
        name = {"window": window.day, "grain": window.grain, "window_start": window.start}
        for *group, merged, daily in connection.execute(query, {**bounds, **name}):
            faults.append(f"{window}, {'/'.join(group)}: {_said(merged)} requests, its days have {_said(daily)}")
    return faults


def _span(first: date, last: date, time_zone: ZoneInfo) -> dict[str, object]:
    return {
        "first_day": first,
        "last_day": last,
        "first": calendar.day_window(first, time_zone).first,
        "until": calendar.day_window(last, time_zone).end,
        "timezone": time_zone.key,
    }


def _hours(first: date, last: date, time_zone: ZoneInfo) -> Iterator[Window]:
    for offset in range((last - first).days + 1):
        for start in calendar.hours_of(calendar.day_window(first + timedelta(days=offset), time_zone)):
            yield calendar.hour_window(start, time_zone)


def _said(count: int | None) -> str:
    return "unknown" if count is None else str(count)
