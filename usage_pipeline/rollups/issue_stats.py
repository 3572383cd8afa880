"""Issues created, issues resolved and comments written per day. A day is replaced as a whole, so a re-run is safe."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import psycopg
from psycopg.types.json import Jsonb

from usage_pipeline.rollups.calendar import day_window
from usage_pipeline.rollups.stale.dates import begin_dates, mark_made
from usage_pipeline.settings import Settings
from usage_pipeline.storage.sql import composed, load

ISSUE_STATS_TABLE = "stats.daily_issue_stats"
# Which columns (schema.table.column) each count comes from.
ISSUE_STATS_LINEAGE = {
    "created_count": ("app.issues.created_at",),
    "resolved_count": ("app.issues.resolved_at",),
    "comment_count": ("app.comments.created_at",),
}


@dataclass(frozen=True, slots=True)
class IssueDay:
    """The counts of a day. `is_changed` says whether other counts, or none, were stored before.

    `is_late`: other counts were, and they were made after the day had ended. Then ops.late_data has a row.
    """

    date: date
    created_count: int
    resolved_count: int
    comment_count: int
    is_changed: bool
    is_late: bool = False


def replace_issue_stats(
    connection: psycopg.Connection, first: date, last: date, *, settings: Settings, now: datetime | None = None
) -> list[IssueDay]:
    """Replaces the days from `first` to `last` with one statement, on an autocommit connection.

    A day without issues gets zeros. Today counts up to now. When a closed day changes, ops.late_data gets a row.
    Raises ValueError for an empty range, or one that ends after today in USAGE_TIMEZONE.
    """
    now = now or datetime.now(UTC)
    today = now.astimezone(settings.timezone).date()
    if not first <= last <= today:
        raise ValueError(f"expected days up to today, {today}, came {first} to {last}")
    dates = [first + timedelta(days=offset) for offset in range((last - first).days + 1)]
    query = composed("rollups/replace_daily_issue_stats", counted=composed("rollups/count_issue_days"))
    with connection.transaction():
        connection.execute("select pg_advisory_xact_lock(hashtext(%s))", (ISSUE_STATS_TABLE,))
        begin_dates(connection, ISSUE_STATS_TABLE, dates)
        rows = connection.execute(query, issue_day_bounds(dates, now, settings)).fetchall()
        mark_made(connection, ISSUE_STATS_TABLE, dates)
        found, late = list[IssueDay](), list[dict[str, object]]()
        for day, created, resolved, comments, is_changed, before, was_closed in rows:
            is_late = is_changed and was_closed and day < today
            found.append(IssueDay(day, created, resolved, comments, is_changed, is_late))
            if is_late:
                late.append(_late(day, before, (created, resolved, comments)))
        with connection.cursor() as cursor:
            cursor.executemany(load("rollups/insert_late_data"), late)
    return found


def issue_day_bounds(dates: Sequence[date], now: datetime, settings: Settings) -> dict[str, object]:
    """The parameters of `sql/rollups/count_issue_days.sql` for dates that follow each other: no day counts beyond `now`."""
    windows = [day_window(day, settings.timezone) for day in dates]
    return {
        "dates": list(dates),
        "firsts": [window.first for window in windows],
        "ends": [window.end for window in windows],
        "first": windows[0].first,
        "until": min(windows[-1].end, now),
    }


def _late(day: date, before: Sequence[int], after: Sequence[int]) -> dict[str, object]:
    """The row of ops.late_data: issues created, issues resolved and comments as they were, and as they are."""
    names = ("created_count", "resolved_count", "comment_count")
    then, now = (Jsonb(dict(zip(names, counts, strict=True))) for counts in (before, after))
    return {"table_name": ISSUE_STATS_TABLE, "usage_date": day, "before": then, "after": now}
