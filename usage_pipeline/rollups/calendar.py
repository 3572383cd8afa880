"""Hours, days, weeks and months in USAGE_TIMEZONE: their first moment and their end, also on days of 23 or 25 hours."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Literal, get_args
from zoneinfo import ZoneInfo

Grain = Literal["hour", "day", "week", "month"]
GRAINS: tuple[Grain, ...] = get_args(Grain)
_HOUR = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Window:
    """An hour, day, week or month: the moments from `first` to `end`, `end` not included.

    `start` is its name in ops.touched_windows, the result of PostgreSQL's date_trunc. It equals `first`, except where a clock
    goes back over midnight (Havana): then `first` is the first of two midnights, and `start` the second. `day` is the local day
    on which the window begins, `next_day` the day on which the next one begins. For an hour: its day and the day after.
    """

    grain: Grain
    start: datetime
    first: datetime
    end: datetime
    day: date
    next_day: date

    def __str__(self) -> str:
        return f"{self.grain} {self.start:%Y-%m-%dT%H:%MZ}" if self.grain == "hour" else f"{self.grain} {self.day}"

    def is_closed(self, now: datetime) -> bool:
        return self.end <= now


def hour_window(start: datetime, time_zone: ZoneInfo) -> Window:
    """The hour that begins at that moment."""
    start = start.astimezone(UTC)
    day = start.astimezone(time_zone).date()
    return Window("hour", start, start, start + _HOUR, day, day + timedelta(days=1))


def day_window(day: date, time_zone: ZoneInfo) -> Window:
    """The window of that local day."""
    return _window_of_days("day", day, day + timedelta(days=1), time_zone)


def week_window(monday: date, time_zone: ZoneInfo) -> Window:
    """The seven local days from that Monday on. Raises ValueError for another day of the week."""
    if monday.weekday():
        raise ValueError(f"expected a Monday, came {monday:%A %Y-%m-%d}")
    return _window_of_days("week", monday, monday + timedelta(days=7), time_zone)


def month_window(first_day: date, time_zone: ZoneInfo) -> Window:
    """The local month that begins on that day. Raises ValueError for another day than the first of a month."""
    if first_day.day != 1:
        raise ValueError(f"expected the first day of a month, came {first_day}")
    return _window_of_days("month", first_day, month_of(first_day + timedelta(days=31)), time_zone)


def window_on(grain: Grain, day: date, time_zone: ZoneInfo) -> Window:
    """The day, week or month that begins on that local day."""
    return {"day": day_window, "week": week_window, "month": month_window}[grain](day, time_zone)


def window_at(grain: Grain, start: datetime, time_zone: ZoneInfo) -> Window:
    """The window of that name in ops.touched_windows."""
    if grain == "hour":
        return hour_window(start, time_zone)
    return window_on(grain, start.astimezone(time_zone).date(), time_zone)


def hours_of(day: Window) -> list[datetime]:
    """The hours that begin in a day or longer window: 23 or 25 on the days when clocks change."""
    return [day.first + count * _HOUR for count in range(-(-(day.end - day.first) // _HOUR))]


def week_of(day: date) -> date:
    """The Monday of the week of that day."""
    return day - timedelta(days=day.weekday())


def month_of(day: date) -> date:
    """The first day of the month of that day."""
    return day.replace(day=1)


def _window_of_days(grain: Grain, day: date, next_day: date, time_zone: ZoneInfo) -> Window:
    (first, start), (end, _) = _midnights(day, time_zone), _midnights(next_day, time_zone)
    return Window(grain, start, first, end, day, next_day)


def _midnights(day: date, time_zone: ZoneInfo) -> tuple[datetime, datetime]:
    """The first moment of a local day, and the midnight that PostgreSQL takes. They differ if midnight comes twice.

    If clocks skip midnight (Cairo), both are the moment at which they do.
    """
    moments = [datetime(day.year, day.month, day.day, tzinfo=time_zone, fold=fold).astimezone(UTC) for fold in (0, 1)]
    before, after = moments
    return (before, after) if before < after else (before, before)
