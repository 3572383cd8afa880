"""`usage-pipeline stats`: issue statistics of days, as the asset stats/daily_issue_stats makes them."""

from contextlib import closing
from dataclasses import asdict
from datetime import timedelta
from typing import Annotated

import typer

from usage_pipeline.commands.options import AsJson, UsageError, chosen_range
from usage_pipeline.commands.output import print_json, print_table
from usage_pipeline.settings import load_settings


def stats(
    day: Annotated[str | None, typer.Option("--date", metavar="YYYY-MM-DD", help="Default: yesterday.")] = None,
    first: Annotated[str | None, typer.Option("--from", metavar="YYYY-MM-DD")] = None,
    last: Annotated[str | None, typer.Option("--to", metavar="YYYY-MM-DD", help="This day included.")] = None,
    as_json: AsJson = False,
) -> None:
    """Count issues created and resolved, and comments, for a date or each date of a range, and store it."""
    from usage_pipeline.rollups.daily import current_day
    from usage_pipeline.rollups.issue_stats import replace_issue_stats
    from usage_pipeline.storage.postgres import connect

    settings = load_settings()
    today = current_day(settings.timezone)
    start, end = chosen_range(day, first, last, default=today - timedelta(days=1))
    if not settings.stats_start_date <= start <= end <= today:
        raise UsageError(
            f"expected dates in order from {settings.stats_start_date} (STATS_START_DATE) to today, {today}, "
            f"came {start} to {end}"
        )
    with closing(connect(settings)) as connection:
        days = replace_issue_stats(connection, start, end, settings=settings)
    if as_json:
        print_json({"success": True, "days": [asdict(one) for one in days]})
        return
    rows = [(one.date, one.created_count, one.resolved_count, one.comment_count) for one in days]
    print_table("Issues", ["date", "created", "resolved", "comments"], rows)
