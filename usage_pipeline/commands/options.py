"""What commands share: their options, and the error for a wrong one."""

from datetime import date
from typing import Annotated

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of a table.")]


class UsageError(Exception):
    """The options of the command cannot work together or are wrong. The message is one line."""


def parsed_date(name: str, text: str) -> date:
    """The date of an ISO text. `name` is the option that the error names. Raises UsageError."""
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise UsageError(f"{name}: expected a date YYYY-MM-DD, came {text!r}") from None


def chosen_range(day: str | None, first: str | None, last: str | None, *, default: date) -> tuple[date, date]:
    """First and last day that `--date`, or `--from` and `--to`, ask for. The order is not checked. Raises UsageError."""
    if (first is None) != (last is None):
        raise UsageError("expected --from and --to together")
    if first is None or last is None:
        only = parsed_date("--date", day) if day else default
        return only, only
    if day:
        raise UsageError("expected --date or a range with --from and --to, came both")
    return parsed_date("--from", first), parsed_date("--to", last)
