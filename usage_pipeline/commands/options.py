"""What commands share: their options, and the error for a wrong one."""

from collections.abc import Sequence
from datetime import date, timedelta
from typing import Annotated

import typer

from usage_pipeline.settings import Settings
from usage_pipeline.texts import shortened

# The most days of a range: ten years.
MOST_DAYS = 3_660
_FIRST, _LAST = date(1900, 1, 1), date(2999, 12, 31)
_SHOWN = 60
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of a table.")]


class UsageError(Exception):
    """The options of the command cannot work together or are wrong. The message is one line."""


def unset_servers(settings: Settings) -> str:
    """One sentence for those who forgot to name the servers; empty where both are named."""
    given = settings.model_fields_set
    missing = [] if "database_url" in given else ["DATABASE_URL"]
    missing += [] if given & {"redis_url", "redis_host"} else ["REDIS_URL"]
    if not missing:
        return ""
    return (
        f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not set, so a server on this machine was asked. For "
        "those of `usage-pipeline dev`, paste the line that it prints into this terminal first"
    )


def expect_texts(arguments: Sequence[str]) -> None:
    """Refuses an empty value of any option or argument, such as `--date "$DAY"` with a variable that is not set.

    An empty text would otherwise be taken for no wish: all dates, the default folder, every merchant. And it refuses what is
    no UTF-8, which could be neither stored nor printed. Raises UsageError.
    """
    for place, argument in enumerate(arguments):
        if not argument.isascii() and argument.encode(errors="replace").decode() != argument:
            raise UsageError(f"argument {place + 1}: expected text in UTF-8, came {argument!a}")
        name, separator, value = argument.partition("=")
        if not argument:
            before = arguments[place - 1] if place else ""
            what = before if before.startswith("-") else f"argument {place + 1}"
            raise UsageError(f"{what}: expected a value, came an empty text; is a variable of the shell not set?")
        if name.startswith("--") and separator and not value:
            raise UsageError(f"{name}: expected a value, came an empty text; is a variable of the shell not set?")


def chosen_days(first: date, last: date, *, today: date) -> list[date]:
    """The days from first to last: at most MOST_DAYS, none of them to come. Raises UsageError."""
    if not first <= last <= today:
        raise UsageError(f"--to: expected a date from {first} to today, {today}, came {last}")
    days = (last - first).days + 1
    if days > MOST_DAYS:
        raise UsageError(f"--to: expected at most {MOST_DAYS} days, came {days}")
    return [first + timedelta(days=offset) for offset in range(days)]


def parsed_date(name: str, text: str) -> date:
    """The date of an ISO text. `name` is the option that the error names. Raises UsageError."""
    try:
        found = date.fromisoformat(text)
    except ValueError:
        found = None
    # Python also reads 20240101 and 2024-W01-1.
    if found is None or found.isoformat() != text:
        raise UsageError(f"{name}: expected a date YYYY-MM-DD, came {shortened(text, _SHOWN)!r}")
    # No clock reaches further in every time zone.
    if not _FIRST <= found <= _LAST:
        raise UsageError(f"{name}: expected a date from {_FIRST} to {_LAST}, came {found}")
    return found


def past_date(name: str, text: str, *, today: date) -> date:
    """As `parsed_date`, and not to come: of such a day there is nothing yet. Raises UsageError."""
    found = parsed_date(name, text)
    if found > today:
        raise UsageError(f"{name}: expected a date up to today, {today}, came {found}")
    return found


def chosen_range(day: str | None, first: str | None, last: str | None, *, default: date) -> tuple[date, date]:
    """First and last day that `--date`, or `--from` and `--to`, ask for. The order is not checked. Raises UsageError."""
    if (first is None) != (last is None):
        raise UsageError("expected --from and --to together")
    if first is None or last is None:
        only = default if day is None else parsed_date("--date", day)
        return only, only
    if day is not None:
        raise UsageError("expected --date or a range with --from and --to, came both")
    return parsed_date("--from", first), parsed_date("--to", last)
