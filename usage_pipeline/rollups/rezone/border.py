"""Where days of usage events of an earlier time zone end. They stayed as they were, since their events were not there.

The day after them begins at the border, so that each event is in exactly one day. What comes late for a moment before the
border counts in the hour and day of the earlier zone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import psycopg

from usage_pipeline.rollups.calendar import Window, day_window, hour_window
from usage_pipeline.rollups.daily import SourceGoneError
from usage_pipeline.storage.sql import load


@dataclass(frozen=True, slots=True)
class ZoneBorder:
    """Days before `first_day` are of `earlier_zone`. `first_day` begins at `first_moment`, so it may be a long or short day."""

    first_moment: datetime
    first_day: date
    earlier_zone: str

    def first_window(self, time_zone: ZoneInfo) -> Window:
        """The day that begins at the border."""
        return replace(day_window(self.first_day, time_zone), first=self.first_moment)

    def window(self, window: Window, time_zone: ZoneInfo) -> Window:
        """What to make for an hour or day of `time_zone`: itself, its part after the border, or the day that begins there.

        Raises SourceGoneError for one before the border.
        """
        if window.grain not in ("hour", "day"):
            return window
        if window.end <= self.first_moment or (window.grain == "day" and window.day < self.first_day):
            raise SourceGoneError(
                f"{window}: expected the events it was made from when USAGE_TIMEZONE changed, came none. It stays as it is, "
                f"in {self.earlier_zone}. Read the events back with `usage-pipeline archive restore`, then run "
                "`usage-pipeline rezone` again"
            )
        if window.grain == "hour":
            return replace(window, first=max(window.first, self.first_moment))
        if window.day == self.first_day:
            return self.first_window(time_zone)
        return window


def zone_border(connection: psycopg.Connection) -> ZoneBorder | None:
    """The latest border; None when all days are of one time zone."""
    return next(iter(zone_borders(connection)), None)


def zone_borders(connection: psycopg.Connection) -> list[ZoneBorder]:
    """All borders, the latest first."""
    return [ZoneBorder(*row) for row in connection.execute(load("rollups/rezone/select_zone_borders"))]


def windows_to_make(
    connection: psycopg.Connection, window: Window, time_zone: ZoneInfo, borders: Sequence[ZoneBorder]
) -> list[tuple[Window, ZoneInfo]]:
    """The hours or days to make for an hour or day of `time_zone`, oldest first, each with its time zone.

    `borders` are all there are, the latest first. Without one in it, it is the window itself. Before one, it is those of the
    earlier zone that hold its moments; where it has no events now, nothing came late, and they need not be read back.
    """
    parts: list[tuple[Window, ZoneInfo]] = []
    needed: list[tuple[Window, ZoneInfo]] = []
    is_before, zone, until = False, time_zone, window.end
    for border in (*borders, None) if window.grain in ("hour", "day") else (None,):
        first = max(window.first, border.first_moment) if border else window.first
        for one in reversed(_overlapping(window, first, until, zone, border)):
            parts.insert(0, (one, zone))
            if not is_before or _has_events(connection, max(one.first, first), min(one.end, until)):
                needed.insert(0, (one, zone))
        if border:
            is_before, zone, until = True, ZoneInfo(border.earlier_zone), min(until, border.first_moment)
    return needed or parts


def _has_events(connection: psycopg.Connection, first: datetime, until: datetime) -> bool:
    query = "select exists (select 1 from analytics.usage_events where event_time >= %s and event_time < %s)"
    [(has_events,)] = connection.execute(query, (first, until)).fetchall()
    return bool(has_events)


def _overlapping(
    like: Window, first: datetime, until: datetime, zone: ZoneInfo, border: ZoneBorder | None
) -> list[Window]:
    """Hours or days of a zone, from its border on, that have moments from `first` to before `until`."""
    if like.grain not in ("hour", "day"):
        return [like]
    found: list[Window] = []
    at = first.astimezone(UTC)
    while at < until:
        one = _hour_at(at, zone) if like.grain == "hour" else day_window(at.astimezone(zone).date(), zone)
        end = one.end
        if border and like.grain == "hour":
            one = replace(one, first=max(one.first, border.first_moment))
        elif border and one.day <= border.first_day:
            one = border.first_window(zone)
        if one not in found:
            found.append(one)
        at = end
    return found


def _hour_at(moment: datetime, zone: ZoneInfo) -> Window:
    offset = moment.astimezone(zone).utcoffset() or timedelta(0)
    return hour_window((moment + offset).replace(minute=0, second=0, microsecond=0) - offset, zone)
