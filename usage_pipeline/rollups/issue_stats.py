"""Issues created, issues resolved and comments written per day. A day is replaced as a whole, so a re-run is safe."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import psycopg

from usage_pipeline.rollups.calendar import day_window
from usage_pipeline.rollups.stale.dates import begin_dates, mark_made
from usage_pipeline.settings import Settings
from usage_pipeline.storage.sql import load

ISSUE_STATS_TABLE = "stats.daily_issue_stats"
# Which columns (schema.table.column) each count comes from.
ISSUE_STATS_LINEAGE = {
    "created_count": ("app.issues.created_at",),
    "resolved_count": ("app.issues.resolved_at",),
    "comment_count": ("app.comments.created_at",),
}


@dataclass(frozen=True, slots=True)
class IssueDay:
    """The counts of a day. `is_changed` says whether other counts, or none, were stored before."""

    date: date
    created_count: int
    resolved_count: int
    comment_count: int
    is_changed: bool


def replace_issue_stats(
    connection: psycopg.Connection, first: date, last: date, *, settings: Settings, now: datetime | None = None
) -> list[IssueDay]:
    """Replaces the days from `first` to `last` with one statement, on an autocommit connection.

    A day without issues gets zeros. Today counts up to now. Raises ValueError for an empty range, or one that ends after today
    in USAGE_TIMEZONE.
    """
    now = now or datetime.now(UTC)
    today = now.astimezone(settings.timezone).date()
    if not first <= last <= today:
        raise ValueError(f"expected days up to today, {today}, came {first} to {last}")
    dates = [first + timedelta(days=offset) for offset in range((last - first).days + 1)]
    windows = [day_window(day, settings.timezone) for day in dates]
    parameters = {
        "dates": dates,
        "firsts": [window.first for window in windows],
        "first": windows[0].first,
        "until": min(windows[-1].end, now),
    }
    with connection.transaction():
        connection.execute("select pg_advisory_xact_lock(hashtext(%s))", (ISSUE_STATS_TABLE,))
        begin_dates(connection, ISSUE_STATS_TABLE, dates)
        rows = connection.execute(load("rollups/replace_daily_issue_stats"), parameters).fetchall()
        mark_made(connection, ISSUE_STATS_TABLE, dates)
    return [IssueDay(*row) for row in rows]
