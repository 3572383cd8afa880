"""Faults of issue statistics: days that are not what issues and comments count. A check returns one line per fault."""

from datetime import date, datetime, timedelta

import psycopg

from usage_pipeline.checks.counters import MOST_FAULTS
from usage_pipeline.rollups.issue_stats import ISSUE_STATS_TABLE, issue_day_bounds
from usage_pipeline.settings import Settings
from usage_pipeline.storage.sql import composed, load
from usage_pipeline.texts import counted

# A sensor asks for a changed day within a minute; a run that fails is tried again within this time.
_HOURS_TO_FOLLOW = timedelta(hours=2)


def issue_stat_faults(
    connection: psycopg.Connection, first: date, last: date, *, settings: Settings, now: datetime
) -> list[str]:
    """Past days from `first` to `last` whose counts differ from issues and comments, unless they wait to be made again."""
    last = min(last, now.astimezone(settings.timezone).date() - timedelta(days=1))
    dates = [first + timedelta(days=offset) for offset in range((last - first).days + 1)]
    if not dates:
        return []
    query = composed("checks/select_issue_stat_faults", counted=composed("rollups/count_issue_days"))
    rows = connection.execute(query, {**issue_day_bounds(dates, now, settings), "most": MOST_FAULTS})
    return [
        f"{day}: {created} created, {resolved} resolved, {counted(comments, 'comment')} stored; the issues have "
        f"{expected_created}, {expected_resolved}, {expected_comments}. Materialize the day again"
        for day, created, resolved, comments, expected_created, expected_resolved, expected_comments in rows
    ]


def overdue_stat_faults(connection: psycopg.Connection, *, settings: Settings, now: datetime) -> list[str]:
    """Past days whose issues or comments changed more than two hours ago, and that were not made again since."""
    arguments = {
        "table_name": ISSUE_STATS_TABLE,
        "today": now.astimezone(settings.timezone).date(),
        "first": settings.stats_start_date,
        "before": now - _HOURS_TO_FOLLOW,
        "most": MOST_FAULTS,
    }
    rows = connection.execute(load("checks/select_overdue_dates"), arguments)
    return [f"{day}: not made again since its issues changed at {at:%Y-%m-%d %H:%M}Z" for day, at in rows]
