"""A client's counts of units, checked and made complete, so that they can be summed up and priced.

What the client told stays. A missing whole is the sum of its parts where these exclude each other. What cannot be known is
None: a whole of parts that may overlap, and what two overlapping units share. Nothing is made up for input and output tokens.
"""

from collections.abc import Iterable, Mapping, Set
from decimal import Decimal
from difflib import get_close_matches
from itertools import combinations
from typing import Final

import msgspec

from usage_pipeline import values
from usage_pipeline.events.units.registry import (
    FRACTIONAL_UNITS,
    NAMED_UNITS,
    REQUESTS,
    ROOTS,
    SENT_UNITS,
    UNITS,
    join_of,
    overlap,
    parts_of,
    wholes_of,
)
from usage_pipeline.values import Malformed

# Whole numbers are int, so a Decimal has a fraction.
Count = int | Decimal
# From here on, a float may stand for another whole number than the one that was written.
_FIRST_INEXACT = 2.0**53
# A duration is kept to the nanosecond.
_DECIMALS = Decimal("1e-9")
_SHOWN_NAMES = 3
_encode = msgspec.json.Encoder(order="sorted", decimal_format="number").encode
# What a reason adds to parts that are more than their whole: the usual cause, by the direction of the whole.
_USUAL_CAUSES = {
    "input": ". Anthropic's own input_tokens leaves cached tokens out, which belong to input_tokens here",
    "output": ". Google's own candidates leave thoughts out, which belong to output_tokens here",
}
# And what somebody can do about it who sends events.
REMEDY: Final = ": add them, or send the provider's own object as provider_usage"


def sent_counts(usage: Mapping[str, object], member: str = "usage") -> dict[str, Count]:
    """The counts of a usage object, by unit; null is the same as none. `member` is the object's name in a reason.

    Raises Malformed for an unknown unit and for what is no count: a number of 0 or more, whole but for seconds.
    """
    counts: dict[str, Count] = {}
    for name, number in usage.items():
        if name not in SENT_UNITS:
            raise Malformed(_unknown(member, name))
        if number is not None:
            counts[name] = count_of(f"{member}.{name}", number, has_fractions=name in FRACTIONAL_UNITS)
    return counts


def count_of(
    name: str, number: object, *, least: int = 0, most: int = values.MAX_COUNT, has_fractions: bool = False
) -> Count:
    """A number as a count within both ends; `10.0` is a whole number. Raises Malformed."""
    if isinstance(number, bool) or not isinstance(number, int | float | Decimal):
        raise Malformed(f"{name}: expected a number, came {_shown(number)}")
    count: Count = number if isinstance(number, int) else _exact(name, number, has_fractions)
    if not least <= count <= most:
        raise Malformed(f"{name}: expected {least} to {most}, came {number}")
    return count


def _exact(name: str, number: float | Decimal, has_fractions: bool) -> Count:
    exact = Decimal(repr(number)) if isinstance(number, float) else number
    if not exact.is_finite():
        raise Malformed(f"{name}: expected a number, came {number}")
    if exact == exact.to_integral_value():
        if isinstance(number, float) and abs(number) >= _FIRST_INEXACT:
            raise Malformed(f"{name}: expected so large a number in digits alone, came {number}, which may be rounded")
        return int(exact)
    if not has_fractions:
        raise Malformed(f"{name}: expected a whole number, came {number}")
    rounded = exact.quantize(_DECIMALS)
    return int(rounded) if rounded == rounded.to_integral_value() else rounded.normalize()


def normalised(given: Mapping[str, Count | None]) -> dict[str, Count | None]:
    """All counts that follow from those of a client; None: cannot be known. Raises Malformed for parts over their whole.

    A 0 is dropped, but for the join of two units that are there: it says that the two share nothing.
    """
    counts = {unit: count for unit, count in given.items() if count is not None}
    if not given.keys() - set(ROOTS):
        return dict(counts)
    told = {unit: count for unit, count in counts.items() if count and unit not in ROOTS}
    found: dict[str, Count | None] = told | dict.fromkeys(given.keys() - counts.keys() - set(ROOTS))
    found |= {join: None for join in _joins(told) if join not in counts}
    missing = {whole for part in found for whole in wholes_of(part)} - found.keys() - counts.keys() - set(ROOTS)
    found |= {whole: _sum_of_parts(whole, found) for whole in missing}
    known = {unit: count for unit, count in found.items() if count is not None}
    found |= {join: counts.get(join) for join in _joins(known) if join not in found}
    _expect_parts_within(counts, found)
    return found | {root: counts[root] for root in ROOTS if root in counts}


def columns_of(counts: Mapping[str, Count | None]) -> tuple[tuple[int | None, ...], dict[str, Count | None]]:
    """Normalised counts as they are stored: those of NAMED_UNITS in their order, and all others beside input and output.

    Where a named one cannot be known, its column is NULL like that of one that is not there, and the others have its None.
    """
    named = tuple(None if (count := counts.get(unit)) is None else int(count) for unit in NAMED_UNITS)
    others = {
        unit: count
        for unit, count in counts.items()
        if unit not in ROOTS and (count is None or unit not in NAMED_UNITS)
    }
    return named, others


def as_json(counts: Mapping[str, Count | None]) -> str:
    """Counts as JSON, in the order of their names."""
    return _encode(counts).decode()


def _unknown(member: str, name: str) -> str:
    if name == REQUESTS:
        return f"{member}.requests: expected no such count: each event is one request"
    near = get_close_matches(name[: values.MAX_ID_CHARACTERS], sorted(SENT_UNITS), n=_SHOWN_NAMES, cutoff=0.5)
    nearest = f" (nearest: {', '.join(near)})" if near else ""
    return (
        f"{member}: expected units of the price package, came {_shown(name)}{nearest}. "
        "A provider's own usage object belongs into provider_usage"
    )


def _shown(value: object) -> str:
    return (
        values.shown(str(value).encode(errors="backslashreplace")) if isinstance(value, str) else type(value).__name__
    )


def _joins(counts: Mapping[str, Count]) -> set[str]:
    """What each two of these units share, as far as there is a unit for it."""
    pairs = combinations([unit for unit, count in counts.items() if count and unit not in ROOTS], 2)
    return {join for one, other in pairs if (join := join_of(one, other))}


def _sum_of_parts(whole: str, found: Mapping[str, Count | None]) -> Count | None:
    parts = _outermost(found.keys() & parts_of(whole))
    if any(overlap(one, other) for one, other in combinations(parts, 2)):
        return None
    counts = [count for part in parts if (count := found[part]) is not None]
    return None if len(counts) < len(parts) else count_of(f"usage.{whole}", sum(counts), has_fractions=True)


def _outermost(units: Iterable[str]) -> list[str]:
    """Those that are no part of another one of them."""
    among = set(units)
    return sorted(unit for unit in among if not among & wholes_of(unit))


def _expect_parts_within(counts: Mapping[str, Count], found: Mapping[str, Count | None]) -> None:
    for whole, count in counts.items():
        parts = {part: known for part in parts_of(whole) if (known := found.get(part)) is not None}
        for part, known in parts.items():
            if known > count:
                raise Malformed(
                    f"usage.{part}: expected at most {whole} = {count}, of which it is a part, came {known}{_cause(whole)}"
                )
        if (least := _at_least(whole, parts, found)) > count:
            names = " + ".join(_outermost(part for part, known in parts.items() if known))
            raise Malformed(
                f"usage: expected {names} within {whole} = {count}, of which they are parts, came {least} together"
                f"{_cause(whole)}"
            )


def _cause(whole: str) -> str:
    unit = UNITS[whole].dimensions
    cause = _USUAL_CAUSES.get(unit.get("direction", "")) if unit.get("family") == "tokens" else None
    return f"{cause}{REMEDY}" if cause else ""


def _at_least(whole: str, parts: Mapping[str, Count], found: Mapping[str, Count | None]) -> Count:
    """How much there is of a whole by its parts: exactly if all that they share is known, or else at least."""
    vague = {
        frozenset(pair)
        for pair in combinations(parts, 2)
        if (join := join_of(*pair)) is not None and found.get(join, 0) is None
    }
    if not vague:
        return _sum_without_shared(parts)
    families = {frozenset(_around(part, parts, vague)) for part in parts}
    sums = [
        _sum_without_shared({part: parts[part] for part in family}) for family in families if _is_closed(family, parts)
    ]
    return max(_most_exclusive(dict(UNITS[whole].dimensions), parts), *sums, 0)


def _sum_without_shared(parts: Mapping[str, Count]) -> Count:
    """What these count together, when all that they share is among them."""
    alone: dict[str, Count] = {}
    for part in _deepest_first(parts):
        alone[part] = parts[part] - sum(alone[below] for below in alone.keys() & parts_of(part))
    return sum(alone.values())


def _around(part: str, parts: Iterable[str], vague: Set[frozenset[str]]) -> list[str]:
    """This one and as many others as can be, so that of no two of them it is unknown what they share."""
    family = [part]
    for other in _deepest_first(parts):
        if other not in family and not any(frozenset((one, other)) in vague for one in family):
            family.append(other)
    return family


def _is_closed(family: Set[str], parts: Mapping[str, Count]) -> bool:
    """Whether what its units share is among them."""
    joins = {join_of(one, other) for one, other in combinations(family, 2)}
    return all(join in family for join in joins if join is not None and parts.get(join))


def _deepest_first(units: Iterable[str]) -> list[str]:
    return sorted(units, key=lambda unit: (-len(UNITS[unit].dimensions), unit))


def _most_exclusive(dimensions: Mapping[str, str], parts: Mapping[str, Count]) -> Count:
    """The largest sum of parts that one dimension tells apart, and that so exclude each other."""
    inside = {unit: UNITS[unit].dimensions for unit in parts if dimensions.items() <= UNITS[unit].dimensions.items()}
    sums: list[Count] = [0]
    for dimension in {name for unit in inside.values() for name in unit} - dimensions.keys():
        cells = [
            {**dimensions, dimension: value}
            for value in {unit[dimension] for unit in inside.values() if dimension in unit}
        ]
        known = {unit: parts[unit] for unit in inside}
        sums.append(sum(_count_in(cell, known) for cell in cells))
    return max(sums)


def _count_in(dimensions: Mapping[str, str], parts: Mapping[str, Count]) -> Count:
    exact = [count for unit, count in parts.items() if UNITS[unit].dimensions == dimensions]
    return exact[0] if exact else _most_exclusive(dimensions, parts)
