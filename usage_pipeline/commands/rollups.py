"""`usage-pipeline rezone` and `stats`: past days again: another zone, issues as they are."""

from contextlib import closing
from dataclasses import asdict
from datetime import timedelta
from typing import Annotated

import typer

from usage_pipeline.commands.options import AsJson, UsageError, chosen_range
from usage_pipeline.commands.output import print_json, print_table, say
from usage_pipeline.settings import load_settings


def stats(
    day: Annotated[
        str | None, typer.Option("--date", metavar="YYYY-MM-DD", help="One day. Default: yesterday.")
    ] = None,
    first: Annotated[
        str | None, typer.Option("--from", metavar="YYYY-MM-DD", help="First day of a range, together with --to.")
    ] = None,
    last: Annotated[str | None, typer.Option("--to", metavar="YYYY-MM-DD", help="Last day of the range.")] = None,
    as_json: AsJson = False,
) -> None:
    """Count the issues created, the issues resolved and the comments of a day, or of each day of a range, and store them."""
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


def rezone(as_json: AsJson = False) -> None:
    """Make all days again in USAGE_TIMEZONE, after a change of it, from what is still there. It is safe to run again.

    Until it ends, nobody else can write. What cannot be made again is listed: its rows are only in archives, or were dropped.
    """
    from usage_pipeline.rollups.rezone.run import rezone as rezone_all
    from usage_pipeline.storage.postgres import connect

    settings = load_settings()
    with closing(connect(settings, any_time_zone=True)) as connection:
        report = rezone_all(connection, settings)
    if as_json:
        print_json({"success": not report.problems, **asdict(report)})
    else:
        rows = [
            ("counter rows and request events that moved to another day", report.rows_moved),
            ("days of counters made again", report.days_made),
            ("windows of usage events made again", report.windows_made),
        ]
        print_table(f"Days are in {report.time_zone} now", ["what", "number"], rows)
        for problem in report.problems:
            say(problem, to_errors=True)
    raise typer.Exit(1 if report.problems else 0)
