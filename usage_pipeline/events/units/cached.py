"""Counts of cached tokens under names that a flavor of an API does not read, though gateways and older APIs put them there.

What a name means is mostly what the package's other flavors say. Whether it counts beside the input too: beside Anthropic's
`input_tokens`, and within `prompt_tokens`. A name that nobody knows makes the count one that is not known.
"""

from collections.abc import Mapping, Set
from functools import cache
from typing import Any

from genai_prices.data_snapshot import get_snapshot

from usage_pipeline.events.units.counts import Count, count_of
from usage_pipeline.events.units.paths import Path, numbers_in, shown, steps

READ, WRITTEN = "cache_read_tokens", "cache_write_tokens"
# Names that no flavor of the package reads: DeepSeek's own, and those that LiteLLM puts beside OpenAI's.
OTHER_NAMES: dict[Path, str] = {
    ("prompt_cache_hit_tokens",): READ,
    ("prompt_tokens_details", "cache_creation_tokens"): WRITTEN,
    ("prompt_tokens_details", "cache_creation_token_details", "ephemeral_5m_input_tokens"): "cache_write_5m_tokens",
    ("prompt_tokens_details", "cache_creation_token_details", "ephemeral_1h_input_tokens"): "cache_write_1h_tokens",
}


def with_cached(
    name: str, counts: Mapping[str, Count], inside: Any, read: Set[tuple[str, ...]], root: Path
) -> tuple[dict[str, Count | None], Count]:
    """The counts with those of cached tokens under names that were not `read`, and how much of these was added to the input.

    `root` is where the flavor reads the input. None: cannot be known. Raises Malformed for what is no count.
    """
    names = _names()
    told: dict[str, set[Count]] = {unit: {count} for unit, count in counts.items() if count and "cache" in unit}
    beside: dict[str, Count] = {}
    unknown: set[tuple[str, float]] = set()
    for path, number in numbers_in(inside):
        if not number or path in read:
            continue
        if path not in names:
            if unit := _may_be_of(path, number):
                unknown.add((unit, number))
            continue
        count = count_of(f"{name}: {shown(path)}", number)
        unit, beside_roots = names[path]
        if unit not in told and root in beside_roots:
            beside[unit] = count
        told.setdefault(unit, set()).add(count)
    known = {unit: next(iter(some)) if len(some) == 1 else None for unit, some in told.items()}
    added = sum(count for unit, count in beside.items() if known[unit] is not None)
    found: dict[str, Count | None] = {**counts, **known}
    if added:
        found["input_tokens"] = counts.get("input_tokens", 0) + added
    uncached = (found.get("input_tokens") or 0) - (known.get(READ) or 0)
    for unit, number in unknown:
        if number != uncached and number not in known.values():
            found[unit] = None
    return found, added


@cache
def _names() -> dict[Path, tuple[str, frozenset[Path]]]:
    """What flavors of the package, and OTHER_NAMES, call a unit of cached tokens; and beside which inputs it counts."""
    names: dict[Path, tuple[str, frozenset[Path]]] = {}
    for other, unit in OTHER_NAMES.items():
        names[other] = (unit, frozenset())
    for provider in get_snapshot().providers:
        for flavor in provider.extractors or ():
            inputs = [steps(mapping.path) for mapping in flavor.mappings if mapping.dest == "input_tokens"]
            for mapping in flavor.mappings:
                path = steps(mapping.path)
                if mapping.dest == "input_tokens" or "cache" not in mapping.dest:
                    continue
                if all(isinstance(step, str) for step in path):
                    beside = frozenset(inputs[:1]) if path in inputs else frozenset[Path]()
                    names[path] = (mapping.dest, beside | names.get(path, ("", frozenset[Path]()))[1])
    return names


def _may_be_of(path: tuple[str, ...], number: float) -> str:
    """Which cached tokens a name that nobody knows may count; empty: none, since it is a price of them, a share, or no name."""
    text = " ".join(path).lower()
    if not ("cache" in text and "token" in text and number > 0 and number == int(number)):
        return ""
    if any(word in text for word in ("cost", "price", "usd")):
        return ""
    return WRITTEN if "writ" in text or "creat" in text else READ
