"""Whether rows of one's own leave units without a price that others need. Pure; no I/O.

The package refuses, and so do we, to price a kind of tokens whose whole has no price, or two kinds that overlap if what they
share has none: nobody could say then what a request costs.
"""

import re
from collections.abc import Iterator, Sequence

from genai_prices.data_snapshot import get_snapshot

from usage_pipeline.events.pricing.cells import problems
from usage_pipeline.events.pricing.layers import layered
from usage_pipeline.events.pricing.own_prices import OwnPrice, rows_of
from usage_pipeline.events.units.registry import UNITS


def coverage_faults(rows: Sequence[OwnPrice]) -> Iterator[str]:
    """A fault for each row with which a model cannot be priced: its own, or one of the package that a pattern meets."""
    for row in rows:
        if row.is_pattern and not row.prices:
            continue
        for provider, model in _models_of(row):
            found = problems(layered(provider, model, row.service_tier, rows))
            if not found:
                continue
            without = layered(provider, model, row.service_tier, [one for one in rows if one is not row])
            if found := found - problems(without):
                needed = re.sub(r"\w+", lambda word: _price_key(word[0]), min(found))
                yield f"{row.name}: expected prices by which {provider}/{model} can be priced, came: {needed}; state it, too"
                break


def _models_of(row: OwnPrice) -> Iterator[tuple[str, str]]:
    if not row.is_pattern:
        yield row.provider, row.model
        return
    for provider in get_snapshot().providers:
        for model in provider.models:
            if any(rows_of([row], [(provider.id, model.id)], row.service_tier)):
                yield provider.id, model.id


def _price_key(word: str) -> str:
    return UNITS[word].price_key if word in UNITS else word
