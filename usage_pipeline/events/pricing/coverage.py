"""Whether rows of one's own leave units without a price that others need. Pure; no I/O.

The package refuses, and so do we, to price a kind of tokens whose whole has no price, or two kinds that overlap if what they
share has none: nobody could say then what a request costs. Where rows of one's own are all there is, they must also state what
input costs and what output costs: one that is forgotten would cost nothing.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace

from genai_prices.data_snapshot import find_provider_by_id, get_snapshot

from usage_pipeline.events.pricing import names
from usage_pipeline.events.pricing.cells import Span, time_spans
from usage_pipeline.events.pricing.layers import LayeredModel, layered, quote
from usage_pipeline.events.pricing.own_prices import ANY, OwnPrice, rows_of
from usage_pipeline.events.units.registry import ROOTS, UNITS

_ROOT_KEYS = tuple(UNITS[root].price_key for root in ROOTS)
# What stands for any characters in a name that a pattern meets.
_ANYTHING = "any"


def coverage_faults(rows: Sequence[OwnPrice]) -> Iterator[str]:
    """A fault for each row with which a model cannot be priced: its own, or one that a pattern meets.

    Of a pattern these are names that the package understands; if it meets none of them, others that it meets.
    """
    for row in rows:
        if row.is_pattern and not row.prices:
            continue
        problems = {
            f"{provider}/{model}": problem
            for provider, model in _models_of(row)
            if (problem := _problem_of(row, layered(provider, model, row.service_tier, rows)))
        }
        if problems:
            yield _fault(row, problems)


def _fault(row: OwnPrice, problems: Mapping[str, str]) -> str:
    name, problem = next(iter(problems.items()))
    needed = re.sub(r"\w+", lambda word: _price_key(word[0]), problem)
    fault = f"{row.name}: expected prices by which {name} can be priced, came: {needed}"
    if not row.is_pattern:
        return f"{fault}; state it, too"
    # In the pattern it would hold for all that it meets, also where the package's own price is another one.
    others = f"; {len(problems) - 1} more models need it" if len(problems) > 1 else ""
    return f"{fault}{others}; state it in a row of that name beside the pattern, or write a pattern without that model"


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
    if found is None:
        return ""
    return found.problem or ("" if found.found is not None else _one_sided(found.prices))


def _one_sided(prices: Collection[str]) -> str:
    stated = [key for key in _ROOT_KEYS if key in prices]
    if len(stated) != 1:
        return ""
    [missing] = set(_ROOT_KEYS) - set(stated)
    return f"{stated[0]} without {missing} (0 if it costs nothing), and the package has no prices of it"


def _models_of(row: OwnPrice) -> Iterator[tuple[str, str]]:
    if not row.is_pattern:
        yield row.provider, row.model
        return
    yield from dict.fromkeys(_known_names(row)) or dict.fromkeys(
        (row.provider.replace(ANY, _ANYTHING), row.model.replace(ANY, filling))
        for filling in ("", _ANYTHING)
        if row.model.replace(ANY, filling)
    )


def _known_names(row: OwnPrice) -> Iterator[tuple[str, str]]:
    """The names that a pattern meets and the package understands, with the prefix that the pattern has."""
    providers = get_snapshot().providers
    # A provider has more names than its id.
    named = None if ANY in row.provider else find_provider_by_id(providers, row.provider)
    prefixes = {row.model.removesuffix(model) for _, model in names.spellings("", row.model) if model}
    for provider in providers if named is None else [named]:
        name = provider.id if named is None else row.provider
        for model in names.names_of(provider.id):
            for prefix in prefixes:
                if any(rows_of([row], [(name, f"{prefix}{model}")], row.service_tier)):
                    yield name, f"{prefix}{model}"


def _price_key(word: str) -> str:
    return UNITS[word].price_key if word in UNITS else word
