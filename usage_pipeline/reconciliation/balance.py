"""The balances of the reconciliation: what was recorded per family and day, and what became of it. Pure; no I/O."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, timedelta

from usage_pipeline.odometers.lives import MEASURES

# Their keys carry the day, so nothing of one day ever counts for another.
_BY_DAY_IN_THE_KEY = frozenset({"merchant"})

Place = tuple[str, date]
Amounts = Counter[Place]


@dataclass(frozen=True, slots=True)
class Look:
    """One look at both sides: amounts by family and day. Each field is read later than the one before it."""

    recorded: Amounts
    live: Amounts
    claimed: Amounts
    stored: Amounts
    dead: Amounts = field(default_factory=Counter)
    duplicates: Amounts = field(default_factory=Counter)
    # Of what was recorded, what Redis has forgotten; and what was stored beyond the recorded before that.
    forgotten: Amounts = field(default_factory=Counter)
    surplus: Amounts = field(default_factory=Counter)
    # By how much people lowered what is stored (accepted corrections, adjustments), and raised it (adjustments).
    lowered: Amounts = field(default_factory=Counter)
    raised: Amounts = field(default_factory=Counter)
    # What dead letters hold that somebody discarded.
    discarded: Amounts = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class DayBalance:
    """A row of ops.reconciliation, whose comments explain the columns."""

    family: str
    usage_date: date
    measure: str
    recorded: int
    stored: int
    live: int
    claimed: int
    dead: int
    duplicates: int
    carried: int = 0
    missing: int = 0
    forgotten: int = 0
    surplus: int = 0
    corrected: int = 0
    discarded: int = 0

    @property
    def difference(self) -> int:
        found = self.stored + self.live + self.claimed + self.dead + self.duplicates + self.corrected + self.discarded
        return self.recorded - found - self.carried

    @property
    def counted_twice(self) -> int:
        """After a fall of the odometer: what is stored beyond the recorded, more than before. It came out of Redis again.

        What other writers wrote since then cannot be told apart from it, and what was lost as well is taken off.
        """
        return max(0, -self.difference - self.surplus) if self.forgotten else 0


def balances(look: Look) -> list[DayBalance]:
    """A balance for each family and day that has an amount, and the amounts that count for another day."""
    parts = (look.recorded, look.stored, look.live, look.claimed, look.dead, look.duplicates)
    places = sorted({place for part in (*parts, look.discarded) for place, amount in part.items() if amount})
    rows = [
        _corrected(
            replace(
                DayBalance(*place, MEASURES[place[0]], *(part[place] for part in parts)),
                forgotten=look.forgotten[place],
                surplus=look.surplus[place],
                corrected=look.lowered[place],
                discarded=look.discarded[place],
            ),
            look.raised[place],
        )
        for place in places
    ]
    return [row for family in MEASURES for row in _carried([row for row in rows if row.family == family])]


def _corrected(row: DayBalance, raised: int) -> DayBalance:
    """What somebody added makes up for what is missing. The rest of it is no surplus that another day could lack."""
    return replace(row, corrected=row.corrected - min(raised, max(0, -row.difference)))


def confirmed(first: Sequence[DayBalance], second: Sequence[DayBalance]) -> list[DayBalance]:
    """The balances of the second look. `missing` is what both looks did not find."""
    before = {(row.family, row.usage_date): row.difference for row in first}
    return [
        replace(row, missing=max(0, min(row.difference, before.get((row.family, row.usage_date), 0)))) for row in second
    ]


def _carried(rows: list[DayBalance]) -> Iterator[DayBalance]:
    """What one day lacks is taken from days that have too much: the nearest day first, a later day before an earlier one.

    A delta counts for one day, the day of its last use. What was counted before midnight and drained after it counts for the
    later day. A record that came late takes everything that was drained with it to its own day.
    """
    left = {row.usage_date: row.difference for row in rows}
    carried: Counter[date] = Counter()
    if rows and rows[0].family not in _BY_DAY_IN_THE_KEY:
        for day, other in _pairs(left):
            amount = min(left[day], -left[other])
            if amount > 0:
                left[day] -= amount
                left[other] += amount
                carried[day] += amount
                carried[other] -= amount
    return (replace(row, carried=carried[row.usage_date]) for row in rows)


def _pairs(differences: Mapping[date, int]) -> list[tuple[date, date]]:
    """Pairs of a day that lacks something and a day that has too much, the nearest first."""
    short = [day for day, difference in differences.items() if difference > 0]
    rich = [day for day, difference in differences.items() if difference < 0]
    return sorted(
        ((day, other) for day in short for other in rich),
        key=lambda pair: (abs(pair[0] - pair[1]), pair[1] - pair[0] < timedelta(0), pair[0]),
    )
