"""What commands share: their options, and how a wrong one is told."""

from datetime import date
from typing import Annotated

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


class UsageError(Exception):
    """The command was called in a way that cannot work; one line."""


def parsed_date(name: str, text: str) -> date:
    """An ISO date; `name` is the option that the error is about. Raises UsageError."""
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise UsageError(f"{name}: expected a date YYYY-MM-DD, came {text!r}") from None
