"""A model's prices as rows that do not overlap, one for each span of time, time of day and input tokens with the same prices.

Rates are differences: cached tokens are among the input tokens already, so theirs is what one of them costs beyond those. The
package counts each token where it is most specific; by the differences, the cost is a sum over the counts as they came.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal, localcontext
from itertools import zip_longest
from typing import TypeVar

from usage_pipeline.events.pricing import package
from usage_pipeline.events.pricing.layers import LayeredModel, LayeredPrice, Quote, quote
from usage_pipeline.events.pricing.prices import Price
from usage_pipeline.events.units.registry import REGISTRY, REQUESTS, ROOTS, UNITS, wholes_of

_MIDNIGHT = time(0, 0)
_ANY_DAY = datetime(2000, 1, 1, tzinfo=UTC)
# Dollars for a second of an hour's price do not end.
_DIGITS = 60
_DECIMALS = Decimal("1e-40")
_MILLION = 6
_SECONDS_FAMILY = "durations"
_Cut = TypeVar("_Cut", datetime, time, int)


@dataclass(frozen=True, slots=True)
class Span:
    """A span of time and one of the day (UTC) in which a model has the same prices; None: no bound."""

    start: datetime | None
    end: datetime | None
    daily_from: time
    daily_until: time | None
    at: datetime


def cells(model: LayeredModel) -> Iterator[Price]:
    """The prices of a model. The package checks its conditions for each request. Between two moments at which a condition
    changes, its answer is the same; so we ask once for each such span.
    """
    last: list[Price] = []
    for span in time_spans(model):
        found = quote(model, span.at, span.start)
        now = [] if found is None or found.problem else list(_cells_at(model, found, span))
        if last and now and [_without_bounds(cell) for cell in last] == [_without_bounds(cell) for cell in now]:
            last = [replace(cell, valid_until=span.end) for cell in last]
            continue
        yield from last
        last = now
    yield from last


def problems(model: LayeredModel) -> set[str]:
    """Why some requests of a model that is known cannot be priced, at whatever moment; none as a rule."""
    quotes = (quote(model, span.at, span.start) for span in time_spans(model))
    return {found.problem for found in quotes if found is not None and found.problem}


def time_spans(model: LayeredModel) -> Iterator[Span]:
    """All spans of a model, those of the same time of day after each other."""
    turns = [package.turns(found) for found in model.all_found]
    bounds = {bound for row in model.rows for bound in (row.valid_from, row.valid_until) if bound is not None}
    moments = sorted(bounds.union(*(moments for moments, _ in turns)))
    times = sorted({_MIDNIGHT}.union(*(times for _, times in turns)))
    before_all = (moments[0] if moments else _ANY_DAY) - timedelta(days=1)
    for turn, next_turn in _spans(times):
        for start, end in ((None, moments[0] if moments else None), *_spans(moments)):
            # The package's days begin at midnight, so any moment of the first day stands for the span.
            at = datetime.combine((start or before_all).astimezone(UTC).date(), turn, UTC)
            yield Span(start, end, turn, next_turn, at)


def _cells_at(model: LayeredModel, found: Quote, span: Span) -> Iterator[Price]:
    seconds = _least_audio_seconds(found, span.at)
    # A tier begins above its threshold, not at it.
    cuts = sorted({0, *(above + 1 for one in found.prices.values() for above in package.tier_starts(one.price))})
    for least, beyond in _spans(cuts):
        flat = {key: package.flat(one.price, least) for key, one in found.prices.items()}
        rates = _rates(flat)
        yield Price(
            provider=model.provider,
            model=model.model,
            service_tier=model.service_tier,
            valid_from=span.start,
            valid_until=span.end,
            daily_from=span.daily_from,
            daily_until=span.daily_until,
            input_tokens_from=least,
            input_tokens_until=beyond,
            request_usd=_ended(rates.get(REQUESTS, Decimal(0))),
            input_usd=_of_a_million(rates, "input_tokens"),
            output_usd=_of_a_million(rates, "output_tokens"),
            cache_read_usd=_of_a_million(rates, "cache_read_tokens"),
            cache_write_usd=_of_a_million(rates, "cache_write_tokens"),
            output_reasoning_usd=_of_a_million(rates, "output_reasoning_tokens"),
            input_audio_usd=_of_a_million(rates, "input_audio_tokens"),
            output_audio_usd=_of_a_million(rates, "output_audio_tokens"),
            input_image_usd=_of_a_million(rates, "input_image_tokens"),
            output_image_usd=_of_a_million(rates, "output_image_tokens"),
            other_usd={unit: _ended(rate) for unit, rate in rates.items() if unit not in (*ROOTS, REQUESTS)},
            any_of=_any_of(rates),
            least_audio_seconds=seconds,
            explained={
                **{key: _explained(one, flat[key]) for key, one in found.prices.items()},
                **({} if found.has_tier else {"service_tier": {"layer": "package", "note": "no price of its own"}}),
            },
        )


def _rates(flat: Mapping[str, Decimal]) -> dict[str, Decimal]:
    """By unit: US dollars that one more of it adds. A unit comes after those it is a part of."""
    by_unit = {REGISTRY.unit_for_price_key(key).usage_key: price for key, price in flat.items()}
    rates: dict[str, Decimal] = {}
    with localcontext(prec=_DIGITS):
        for unit in sorted(by_unit, key=lambda name: (len(UNITS[name].dimensions), name)):
            rates[unit] = by_unit[unit] / UNITS[unit].per - sum(rates[whole] for whole in wholes_of(unit))
    return rates


def _of_a_million(rates: Mapping[str, Decimal], unit: str) -> Decimal:
    with localcontext(prec=_DIGITS):
        return _ended(rates.get(unit, Decimal(0)).scaleb(_MILLION))


def _ended(usd: Decimal) -> Decimal:
    with localcontext(prec=_DIGITS):
        return usd.quantize(_DECIMALS).normalize() or Decimal(0)


def _any_of(rates: Mapping[str, Decimal]) -> tuple[str, ...] | None:
    """Without a price of tokens or requests, a request without any of the priced units cannot be priced."""
    if not rates or any(unit in rates for unit in (*ROOTS, REQUESTS)):
        return None
    return tuple(sorted(rates))


def _least_audio_seconds(quoted: Quote, at: datetime) -> Decimal:
    if quoted.found is None or not any(
        REGISTRY.unit_for_price_key(key).dimensions.get("family") == _SECONDS_FAMILY for key in quoted.prices
    ):
        return Decimal(0)
    return package.least_audio_seconds(quoted.found, at)


def _explained(one: LayeredPrice, usd: Decimal) -> dict[str, str]:
    factors = {"factor": " × ".join(one.factors)} if one.factors else {}
    return {"usd": format(usd, "f"), "layer": one.layer, "of": one.of, **factors}


def _without_bounds(cell: Price) -> Price:
    return replace(cell, valid_from=None, valid_until=None)


def _spans(cuts: Sequence[_Cut]) -> Iterator[tuple[_Cut, _Cut | None]]:
    """Each element with the one after it."""
    return zip_longest(cuts, cuts[1:])
