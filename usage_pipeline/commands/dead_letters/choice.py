"""Which dead letters a command is about: numbers and ranges, families, one source."""

import re
from collections import Counter
from typing import TYPE_CHECKING, Annotated

import typer

from usage_pipeline.commands.options import UsageError
from usage_pipeline.texts import counted

if TYPE_CHECKING:
    import psycopg

    from usage_pipeline.drain.dead_letters import Choice

_LARGEST = 2**63 - 1
NUMBERS = re.compile(r"([0-9]{1,19})(?:-([0-9]{1,19}))?")
_MOST_LOOKED_AT = 10_000
_LIST = "`usage-pipeline dead-letters list --all` lists them"
_ASK = "one number, or a range such as 17-2016"

Families = Annotated[
    list[str] | None, typer.Option("--family", help="Only this family, such as api_key. Repeat it for more families.")
]
Source = Annotated[
    str | None, typer.Option(help="Only from this landed file, or this key in Redis, as `list` shows it.")
]


def chosen(numbers: list[str] | None, families: list[str] | None, source: str | None) -> "Choice":
    """The choice that the options ask for. Raises UsageError for a number or a family that no dead letter can have."""
    from usage_pipeline.drain.dead_letters import Choice
    from usage_pipeline.drain.rounds import ALL_FAMILIES
    from usage_pipeline.events.landing.dead_letters import KINDS

    known = (*ALL_FAMILIES, "merchant", *sorted(KINDS))
    for family in families or []:
        if family not in known:
            raise UsageError(f"--family: expected one of {', '.join(known)}, came {family!r}")
    ids: list[int] = []
    ranges: list[tuple[int, int]] = []
    for text in numbers or []:
        found = NUMBERS.fullmatch(text)
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
        if not 1 <= first <= last <= _LARGEST:
            raise UsageError(f"numbers of dead letters: expected {_ASK}, came {text!r}")
        if found and found[2]:
            ranges.append((first, last))
        else:
            ids.append(first)
    return Choice(ids, ranges, families or (), None if source is None else source.encode(errors="surrogateescape"))


def expect_known(connection: "psycopg.Connection", choice: "Choice") -> None:
    """Raises UsageError for numbers that no dead letter has, for a range with none, and for a source that no one came from."""
    from usage_pipeline.drain.dead_letters import Choice

    unknown = [str(number) for number in choice.ids if not _has_any(connection, Choice(ids=[number]))]
    if unknown:
        raise UsageError(f"no dead letter has the number{'s' * (len(unknown) > 1)} {', '.join(unknown)}; {_LIST}")
    for first, last in choice.ranges:
        if not _has_any(connection, Choice(ranges=[(first, last)])):
            raise UsageError(f"no dead letter has a number from {first} to {last}; {_LIST}")
    if choice.source is not None and not _has_any(connection, Choice(source=choice.source)):
        source = choice.source.decode(errors="replace")
        raise UsageError(f"--source: no dead letter came from the file or key {source!r}; {_LIST}")


def why_none_is_open(connection: "psycopg.Connection", choice: "Choice") -> str:
    """One sentence: what became of the dead letters of a choice of which none is open."""
    from usage_pipeline.drain.dead_letters import list_dead_letters

    found = list_dead_letters(
        connection, choice, with_replayed=True, with_discarded=True, limit=_MOST_LOOKED_AT, with_raw=False
    )
    states = Counter(letter.state for letter in found)
    parts = []
    if states["counted"]:
        parts.append(f"{counted(states['counted'], 'counts already', 'count already')}")
    if states["discarded"]:
        parts.append(f"{counted(states['discarded'], 'was discarded', 'were discarded')}")
    which = "of this choice" if choice.ids or choice.ranges or choice.families or choice.source else "at all"
    if not parts:
        return f"there is no dead letter {which}"
    least = "at least " if len(found) == _MOST_LOOKED_AT else ""
    end = "; name the number of a discarded one to try it again" if states["discarded"] else ""
    return f"no dead letter {which} is open: {least}{' and '.join(parts)}{end}"


def _has_any(connection: "psycopg.Connection", choice: "Choice") -> bool:
    from usage_pipeline.drain.dead_letters import list_dead_letters

    return bool(list_dead_letters(connection, choice, with_replayed=True, with_discarded=True, limit=1, with_raw=False))
