"""Whether rows of one's own leave units without a price that others need. Pure; no I/O.

The package refuses, and so do we, to price a kind of tokens whose whole has no price, or two kinds that overlap if what they
share has none: nobody could say then what a request costs.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from genai_prices.data_snapshot import get_snapshot

from usage_pipeline.events.pricing.cells import Span, time_spans
from usage_pipeline.events.pricing.layers import LayeredModel, layered, quote
from usage_pipeline.events.pricing.own_prices import OwnPrice, rows_of
from usage_pipeline.events.units.registry import UNITS


def coverage_faults(rows: Sequence[OwnPrice]) -> Iterator[str]:
    """A fault for each row with which a model cannot be priced: its own, or one of the package that a pattern meets."""
    for row in rows:
        if row.is_pattern and not row.prices:
            continue
        for provider, model in _models_of(row):
            if problem := _problem_of(row, layered(provider, model, row.service_tier, rows)):
                needed = re.sub(r"\w+", lambda word: _price_key(word[0]), problem)
                yield f"{row.name}: expected prices by which {provider}/{model} can be priced, came: {needed}; state it, too"
                break


def _problem_of(row: OwnPrice, known: LayeredModel) -> str:
    """Why a model cannot be priced with this row, at the first such moment at which it holds; empty: it always can.

    What the package cannot price either is nobody's fault. Of the rows that hold, those are at fault with which alone the model
    cannot be priced, or else all of them.
    """
    for span in time_spans(known):
        holding = known.rows_at(span.start)
        problem = _problem(known, holding, span)
        if row not in holding or not problem or problem == _problem(known, [], span):
            continue
        if row in ([one for one in holding if _problem(known, [one], span)] or holding):
            return problem
    return ""


def _problem(known: LayeredModel, rows: Sequence[OwnPrice], span: Span) -> str:
    """Why the model cannot be priced in a span with these of its rows alone; empty if it can."""
    alone = replace(known, matching=tuple(one for one in known.matching if one.row in rows))
    found = quote(alone, span.at, span.start)
    return found.problem if found is not None else ""


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
