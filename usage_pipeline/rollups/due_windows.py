"""The hours, days, weeks and months that ended last, and so must be made by now. Pure; no I/O.

Arithmetic on moments is in UTC: `-` on a time with a ZoneInfo is that of the clock on the wall, wrong when clocks change.
"""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

from usage_pipeline.rollups.calendar import Grain, Window, hour_window, month_of, week_of, window_on


def closed_windows(grain: Grain, until: datetime, count: int, time_zone: ZoneInfo) -> list[Window]:
    """The last `count` windows that had ended by `until`, the newest first."""
    local = until.astimezone(time_zone)
    if grain == "hour":
        into_the_hour = timedelta(minutes=local.minute, seconds=local.second, microseconds=local.microsecond)
        running = until.astimezone(UTC) - into_the_hour
        return [hour_window(running - timedelta(hours=ago), time_zone) for ago in range(1, count + 1)]
    windows = []
    day = _begin(grain, local.date())
    for _ in range(count):
        day = _begin(grain, day - timedelta(days=1))
        windows.append(window_on(grain, day, time_zone))
    return windows


def days_to_roll_up(at: datetime, time_zone: ZoneInfo) -> list[date]:
    """The running day; in its first hour also the day before, which has just ended, first."""
    moment = at.astimezone(UTC)
    return sorted({(moment - timedelta(hours=1)).astimezone(time_zone).date(), moment.astimezone(time_zone).date()})


def _begin(grain: Grain, day: date) -> date:
    return {"week": week_of, "month": month_of}.get(grain, lambda same: same)(day)
