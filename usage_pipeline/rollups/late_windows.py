"""The past windows that must be made again: because of late events, another price version, or a day that changed in them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo

import psycopg

from usage_pipeline.rollups.calendar import Window, window_at
from usage_pipeline.rollups.rezone.border import windows_to_make, zone_borders
from usage_pipeline.storage.sql import load

# All hours, days, weeks and months of the longest RETENTION_DAYS: with fewer, windows that cannot be made would hide others.
MOST_WINDOWS = 100_000


@dataclass(frozen=True, slots=True)
class StaleWindow:
    """A window that must be made again. `is_archived`: its events must be restored before."""

    window: Window
    touched_at: datetime
    is_archived: bool


def stale_windows(
    connection: psycopg.Connection, *, time_zone: ZoneInfo, now: datetime, most: int = MOST_WINDOWS
) -> list[StaleWindow]:
    """Past windows that must be made again, oldest first. Weeks and months come only when their days are done."""
    absent = connection.execute(load("rollups/select_absent_chunks")).fetchall()
    rows = connection.execute(
        load("rollups/select_stale_windows"), {"now": now, "timezone": time_zone.key, "most": most}
    ).fetchall()
    borders = zone_borders(connection)
    stale = list[StaleWindow]()
    for grain, start, touched_at in rows:
        window = window_at(grain, start, time_zone)
        made = [one for one, _ in windows_to_make(connection, window, time_zone, borders)]
        stale.append(StaleWindow(window, touched_at, any(_is_absent(one, absent) for one in made)))
    return stale


def _is_absent(window: Window, absent: Sequence[tuple[datetime, datetime]]) -> bool:
    """Whether events that the window needs are archived. Weeks and months need none: they are made from days."""
    return window.grain in ("hour", "day") and any(start < window.end and end > window.first for start, end in absent)
