"""`usage-pipeline counters adjust`: counters that were wrong are put up or down."""

from contextlib import closing
from dataclasses import asdict
from typing import Annotated

import typer

from usage_pipeline.commands.options import AsJson, UsageError, parsed_date
from usage_pipeline.commands.output import print_json, say
from usage_pipeline.settings import load_settings


def adjust(
    family: Annotated[str, typer.Argument(help="api_key, provider, token or merchant.")],
    counter_id: Annotated[
        str, typer.Argument(metavar="ID", help="The API key, the token or the merchant. Of a provider: the API key.")
    ],
    field: Annotated[
        str,
        typer.Option(help="The count, such as total_requests, upload_count or usage_count; of a merchant the metric."),
    ],
    by: Annotated[str, typer.Option(metavar="±N", help="How much to add, such as 5, or to take off, such as -5.")],
    day: Annotated[str, typer.Option(metavar="YYYY-MM-DD", help="The day that it counts for.")],
    reason: Annotated[str, typer.Option(help="Why. ops.corrections keeps it.")],
    provider: Annotated[str | None, typer.Option(help="The provider, for the family provider.")] = None,
    as_json: AsJson = False,
) -> None:
    """Add to a counter of a day, or take off it. Each call adds once more. No count falls below 0.

    The running total changes with it, and the day when it is made again. What Redis counts goes on beside it.
    """
    from usage_pipeline.process import user_name
    from usage_pipeline.reconciliation.adjustments import FAMILIES, Adjustment
    from usage_pipeline.reconciliation.adjustments import adjust as make
    from usage_pipeline.storage.postgres import connect

    known = next((name for name in FAMILIES if name == family), None)
    if known is None:
        raise UsageError(f"FAMILY: expected one of {', '.join(FAMILIES)}, came {family!r}")
    asked = Adjustment(known, counter_id, field, _amount(by), parsed_date("--day", day), provider)
    settings = load_settings()
    with closing(connect(settings)) as connection:
        made = make(connection, asked, reason=reason, corrected_by=user_name(), settings=settings)
    if as_json:
        print_json({"success": True, **asdict(made)})
        return
    total = "" if made.total is None else f"; in all {made.total:,}"
    say(
        f"{counter_id} {field} of {day}: {made.before:,} before, {made.after:,} now{total}. Correction {made.correction_id}."
    )


def _amount(text: str) -> int:
    digits = text.removeprefix("+").removeprefix("-")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 19) or text.startswith("+-"):
        raise UsageError(f"--by: expected a whole number such as 5 or -5, came {text!r}")
    return int(text)
