"""`usage-pipeline recost`, `rezone` and `stats`: past days again: other prices, another zone, issues as they are."""

import logging
from contextlib import closing
from dataclasses import asdict
from datetime import timedelta
from typing import Annotated

import typer

from usage_pipeline.commands.options import AsJson, UsageError, chosen_days, chosen_range, parsed_date
from usage_pipeline.commands.output import print_json, print_table, say
from usage_pipeline.settings import load_settings


def recost(
    first: Annotated[str, typer.Option("--from", metavar="YYYY-MM-DD", help="First day of the range.")],
    last: Annotated[str, typer.Option("--to", metavar="YYYY-MM-DD", help="Last day of the range.")],
    version: Annotated[
        str | None,
        typer.Option(help="The price version to use, as a day has it. Default: the one that new days get."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compute the costs of past days again with other prices. The same version always gives the same costs."""
    from usage_pipeline.events.pricing.lookups import current_version, has_price_version
    from usage_pipeline.rollups.daily import current_day
    from usage_pipeline.rollups.recost import recost as recost_days
    from usage_pipeline.storage.postgres import connect

    start, end = parsed_date("--from", first), parsed_date("--to", last)
    settings = load_settings()
    chosen_days(start, end, today=current_day(settings.timezone))
    with closing(connect(settings)) as connection:
        if version is None:
            version = current_version(connection)
        elif not has_price_version(connection, version):
            raise UsageError(
                f"--version: expected a stored price version, such as {current_version(connection)!r}, came {version!r}. "
                "Own prices: usage-pipeline prices import"
            )
        days = [start + timedelta(days=offset) for offset in range((end - start).days + 1)]
        logging.getLogger(__name__).info("Computing the costs of %d days again with %s", len(days), version)
        recosted = list(recost_days(connection, days, version, settings=settings))
    problems = [day for day in recosted if day.problem]
    if as_json:
        print_json({"success": not problems, "version": version, "days": [asdict(day) for day in recosted]})
    else:
        columns = ["date", "USD before", "USD after", "requests without a price"]
        rows = [(day.usage_date, day.cost_before, day.cost_after, day.unpriced_requests) for day in recosted]
        print_table(f"Costs with {version}", columns, rows)
        for day in problems:
            say(day.problem, to_errors=True)
    raise typer.Exit(1 if problems else 0)


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
