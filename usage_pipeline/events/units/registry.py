"""The units that usage is counted in, as the price package has them, and how they lie in each other.

A unit is a set of dimensions (`direction: input`, `token_type: cache_read`, …). One with more dimensions is a part of one with
fewer of them. Two units overlap if no dimension tells them apart; what is in both is their join.
"""

from functools import cache
from typing import Final

from genai_prices.data_units import unit_data
from genai_prices.units import UnitDef, UnitRegistry

REGISTRY: Final = UnitRegistry(unit_data)
UNITS: Final = REGISTRY.units
ROOTS: Final = ("input_tokens", "output_tokens")
# The units that have a column of their own, in the order of the columns of analytics.usage_events.
NAMED_UNITS: Final = (
    "cache_read_tokens",
    "cache_write_tokens",
    "output_reasoning_tokens",
    "input_audio_tokens",
    "output_audio_tokens",
    "input_image_tokens",
    "output_image_tokens",
)
# A request is one by itself. Nobody counts it for us.
REQUESTS: Final = "requests"
# All that a client may send, `input_tokens` and `output_tokens` among them.
SENT_UNITS: Final = frozenset(UNITS) - {REQUESTS}
# Seconds may have fractions; everything else is counted in whole numbers.
FRACTIONAL_UNITS: Final = frozenset(
    name for name, unit in UNITS.items() if unit.dimensions.get("family") == "durations"
)


@cache
def wholes_of(unit: str) -> frozenset[str]:
    """The units that this one is a part of."""
    return REGISTRY.ancestor_usage_keys(unit)


@cache
def parts_of(unit: str) -> frozenset[str]:
    """The units that are parts of this one."""
    return frozenset(name for name in UNITS if unit in wholes_of(name))


def overlap(one: str, other: str) -> bool:
    """Whether two units may count the same thing, though neither is a part of the other."""
    return (
        one != other
        and one not in wholes_of(other)
        and other not in wholes_of(one)
        and UNITS[one].is_compatible_with(UNITS[other])
    )


@cache
def join_of(one: str, other: str) -> str | None:
    """The unit that counts what two overlapping units share; None where the package has none, or they do not overlap."""
    join: UnitDef | None = REGISTRY.find_join(UNITS[one], UNITS[other]) if overlap(one, other) else None
    return None if join is None else join.usage_key
