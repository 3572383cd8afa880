"""Prices of one's own: what a row says, and which rows hold for a model at a moment in a tier. Pure; no I/O."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal

ANY = "*"


@dataclass(frozen=True, slots=True)
class OwnPrice:
    """A row of one's own prices. Names are in lower case, as the package compares them; `*` stands for any characters.

    `prices` are US dollars by the package's price keys. `factor` multiplies the prices from below this row. `service_tier` is
    empty for all tiers; `valid_from` and `valid_until` (not included) are None for no bound.
    """

    provider: str
    model: str
    service_tier: str = ""
    valid_from: datetime | None = None
    valid_until: datetime | None = None
    priced_as: str | None = None
    factor: Decimal | None = None
    prices: Mapping[str, Decimal] = field(default_factory=dict, hash=False)

    @property
    def key(self) -> tuple[str, str, str, datetime | None]:
        """What identifies a row in a version: an import replaces the row with the same key."""
        return self.provider, self.model, self.service_tier, self.valid_from

    @property
    def name(self) -> str:
        return f"{self.provider}/{self.model}"

    @property
    def is_pattern(self) -> bool:
        return ANY in self.provider or ANY in self.model

    @property
    def literal_characters(self) -> int:
        return len(self.provider.replace(ANY, "")) + len(self.model.replace(ANY, ""))

    def is_valid(self, at: datetime | None) -> bool:
        """Whether it holds at that moment; None: before any moment."""
        if at is None:
            return self.valid_from is None
        return (self.valid_from is None or self.valid_from <= at) and (
            self.valid_until is None or at < self.valid_until
        )


@dataclass(frozen=True, slots=True)
class MatchingRow:
    """A row that holds for a model, and the place of the first of the model's spellings that it meets."""

    row: OwnPrice
    place: int


def rows_of(rows: Iterable[OwnPrice], spellings: Sequence[tuple[str, str]], tier: str) -> Iterator[MatchingRow]:
    """The rows that hold for a model at some moment, by any of its spellings, the name as it is first."""
    names = [(provider.lower(), model.lower()) for provider, model in spellings]
    for row in rows:
        if row.service_tier in ("", tier):
            places = (at for at, name in enumerate(names) if _meets(row, *name))
            if (place := next(places, None)) is not None:
                yield MatchingRow(row, place)


def layers_of(rows: Iterable[MatchingRow], at: datetime | None) -> list[OwnPrice]:
    """Of the rows of a model those that hold at the moment, the lower one first: at most one pattern, at most one exact row.

    The pattern with the most literal characters comes before others, a row with the name as it is before one with the name
    without prefixes, a row for the tier before one for all of them, and the row that began last before earlier ones.
    """
    valid = [one for one in rows if one.row.is_valid(at)]
    patterns = [one for one in valid if one.row.is_pattern]
    exact = [one for one in valid if not one.row.is_pattern]
    return [max(some, key=_precedence).row for some in (patterns, exact) if some]


def _precedence(one: MatchingRow) -> tuple[int, int, bool, bool, float, str]:
    row, begins = one.row, one.row.valid_from
    literal = row.literal_characters if row.is_pattern else 0
    latest = begins.timestamp() if begins else 0.0
    return literal, -one.place, bool(row.service_tier), begins is not None, latest, row.name


def _meets(row: OwnPrice, provider: str, model: str) -> bool:
    return matches(row.provider, provider) and matches(row.model, model)


def matches(pattern: str, text: str) -> bool:
    """`*` is any text. Not by a regular expression: names come from senders, and several `*` could keep one busy for ever."""
    first, *others = pattern.split(ANY)
    if not others:
        return pattern == text
    *middle, last = others
    place, end = len(first), len(text) - len(last)
    if place > end or not text.startswith(first) or not text.endswith(last):
        return False
    for part in middle:
        # The first place is the best one: it leaves most for the parts behind it.
        found = text.find(part, place, end)
        if found < 0:
            return False
        place = found + len(part)
    return True
