"""The lives of an odometer: from when Redis has a new one, or an earlier state of one, until it is lost. Pure; no I/O.

The recorder writes a name into each new odometer, a look into one that has none or is an earlier state. A restored file, or a
replica that takes over, brings the name of its own life. So a life that returns is known again and has forgotten nothing.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from usage_pipeline.values import shown

# Family -> the field of the odometer that is compared.
MEASURES = {
    "api_key": "total_requests",
    "provider": "upload_count",
    "token": "usage_count",
    "event": "records",
    "merchant": "metric_value",
}
# Redis adds in 64 bits.
_COUNT = re.compile(rb"\d{1,19}")
_NAME = re.compile(r"(\d{1,19})-[0-9a-f]{12}")

# emptied: gone, or begun at zero. rewound: an earlier state of a life. returned: a life that was seen before.
Change = Literal["emptied", "rewound", "returned"]


@dataclass(frozen=True, slots=True)
class Life:
    """`base` is what the odometer counted when this life began, `counted` what it counted when we last saw it."""

    base: int
    counted: int


@dataclass(frozen=True, slots=True)
class Reading:
    """An odometer as Redis has it: its count, and the name of a life if it has one."""

    count: int
    mark: str | None = None


@dataclass(frozen=True, slots=True)
class Odometer:
    """What is known of an odometer. `life` is None if Redis has none; `mark` is what Redis shows as the name of that life."""

    counted: int = 0
    life: str | None = None
    mark: str | None = None
    lives: Mapping[str, Life] = field(default_factory=dict)
    problem: str | None = None

    @property
    def recorded(self) -> int:
        """All that was ever seen. At least what it counts now, if PostgreSQL knows less than Redis."""
        return max(self.counted, sum(life.counted - life.base for life in self.lives.values()))

    @property
    def forgotten(self) -> int:
        return self.recorded - self.counted


def reading_of(answer: Any) -> Reading | str | None:
    """The odometer in an answer to HMGET (its measure and its mark), None if there is none, or why it is none."""
    if not isinstance(answer, list):
        return f"expected a hash, came {answer}"
    count, mark = answer
    if count is not None and not _COUNT.fullmatch(count):
        return f"expected a count, came {shown(count)}"
    if count is None and mark is None:
        return None
    name = (mark or b"").decode("utf-8", "replace")
    return Reading(int(count or 0), name if _NAME.fullmatch(name) else None)


def seen(known: Odometer, reading: Reading | str | None, name: Callable[[int], str]) -> Odometer:
    """What is known after a look. `name` makes the name of a new life from its base.

    An odometer that reads less than its life did is an earlier state of it, and begins another life. What was recorded between
    such a return and this look cannot be told from what was there before: it is part of the base.
    """
    if isinstance(reading, str):
        return replace(known, problem=reading)
    if reading is None:
        return Odometer(lives=known.lives)
    is_same = known.life is not None and reading.mark == known.mark
    life = (known.life if is_same else reading.mark) or name(0)
    before = known.lives.get(life, _begun(life))
    if reading.count < before.counted:
        life, before = name(reading.count), Life(reading.count, reading.count)
    lives = {**known.lives, life: Life(before.base, reading.count)}
    return Odometer(reading.count, life, reading.mark, lives)


def change(before: Odometer, after: Odometer) -> Change | None:
    """How the life changed between two looks. The first life is no change, nor is one that begins where there was none."""
    if after.life == before.life or not before.lives:
        return None
    if after.life in before.lives:
        return "returned"
    if after.life is not None and after.lives[after.life].base:
        return "rewound"
    return "emptied"


def _begun(life: str) -> Life:
    """A life that PostgreSQL does not know, since it was restored to an earlier moment itself: its name has its base."""
    named = _NAME.fullmatch(life)
    base = int(named[1]) if named else 0
    return Life(base, base)
