"""`usage-pipeline recost`: the costs of past days again, by other prices."""

import logging
from contextlib import closing
from dataclasses import asdict
from datetime import timedelta
from typing import Annotated

import typer

from usage_pipeline.commands.options import AsJson, UsageError, chosen_days, parsed_date
from usage_pipeline.commands.output import print_json, print_table, say
from usage_pipeline.settings import load_settings
from usage_pipeline.texts import counted


def recost(
    first: Annotated[str, typer.Option("--from", metavar="YYYY-MM-DD", help="First day of the range.")],
    last: Annotated[
        str, typer.Option("--to", metavar="YYYY-MM-DD", help="Last day of the range, today at the latest.")
    ],
    version: Annotated[
        str | None,
        typer.Option(help="The price version to use, as a day has it. Default: the one that new days get."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compute the costs of days again with other prices. The same version always gives the same costs.

    A day keeps the prices with which it was first rolled up. So after an import of prices, take in today as well: its hours up
    to now are made again, and the later ones get the same prices.
    """
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
        logging.getLogger(__name__).info("Computing the costs of %s again with %s", counted(len(days), "day"), version)
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
