"""Where days of usage events of an earlier time zone end. They stayed as they were, since their events were not there.

The day after them begins at the border, so that each event is in exactly one day.
"""

from dataclasses import dataclass, replace
from datetime import date, datetime
from zoneinfo import ZoneInfo

import psycopg

from usage_pipeline.rollups.calendar import Window, day_window
from usage_pipeline.rollups.daily import SourceGoneError
from usage_pipeline.storage.sql import load


@dataclass(frozen=True, slots=True)
class ZoneBorder:
    """Days before `first_day` are of `earlier_zone`. `first_day` begins at `first_moment`, so it may be a long or short day."""

    first_moment: datetime
    first_day: date
    earlier_zone: str

    def window(self, window: Window, time_zone: ZoneInfo) -> Window:
        """What to make for an hour or day of `time_zone`: itself, its part after the border, or the day that begins there.

        Raises SourceGoneError for one before the border.
        """
        if window.grain not in ("hour", "day"):
            return window
        if window.end <= self.first_moment:
            raise SourceGoneError(
                f"{window}: expected the events it was made from when USAGE_TIMEZONE changed, came none. It stays as it is, "
                f"in {self.earlier_zone}. Read the events back with `usage-pipeline archive restore`, then run "
                "`usage-pipeline rezone` again"
            )
        if window.grain == "hour":
            return replace(window, first=max(window.first, self.first_moment))
        if window.first < self.first_moment or window.day <= self.first_day:
            return replace(day_window(self.first_day, time_zone), first=self.first_moment)
        return window


def zone_border(connection: psycopg.Connection) -> ZoneBorder | None:
    """The latest border; None when all days are of one time zone."""
    row = connection.execute(load("rollups/rezone/select_zone_border")).fetchone()
    return ZoneBorder(*row) if row else None
