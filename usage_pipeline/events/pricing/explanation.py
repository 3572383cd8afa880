"""What a model costs at a moment and why, for people: each price with its layer, and why there is none. Pure; no I/O."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from usage_pipeline.events.pricing import names
from usage_pipeline.events.pricing.cells import cells, problems
from usage_pipeline.events.pricing.layers import LayeredModel, layered
from usage_pipeline.events.pricing.own_prices import OwnPrice
from usage_pipeline.events.pricing.prices import Price


@dataclass(frozen=True, slots=True)
class ExplainedPrice:
    """US dollars by a price key of the package, after `factor`. `layer` is own, own pattern or package, and `of` is the row or
    the package's model. It holds for requests with at least `input_tokens_from` input tokens, from and until these times (ISO,
    empty: no bound), at these times of day in UTC.
    """

    price_key: str
    usd: str
    layer: str
    of: str
    factor: str
    input_tokens_from: int
    valid_from: str
    valid_until: str
    daily_from: str
    daily_until: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """The prices of a model at a moment. `understood_as` is the name that was found if the one given is another, such as one
    with a prefix. `own_rows` are the rows of one's own that hold, the upper one first. `notes` say what is not as it seems,
    and without prices why there are none.
    """

    provider: str
    model: str
    service_tier: str
    at: str
    is_priced: bool
    understood_as: str
    own_rows: tuple[str, ...]
    prices: tuple[ExplainedPrice, ...]
    notes: tuple[str, ...]


def explain(provider: str, model: str, service_tier: str, at: datetime, own: Sequence[OwnPrice]) -> Explanation:
    """Explains the prices of a model at a moment with an offset, in a tier (empty: none)."""
    known, utc = layered(provider, model, service_tier, own), at.astimezone(UTC)
    holding = [price for price in cells(known) if _holds(price, utc)]
    found = known.found
    is_spelled_so = found is None or found.spelling == (provider, model)
    return Explanation(
        provider=provider,
        model=model,
        service_tier=service_tier,
        at=_text(utc),
        is_priced=bool(holding),
        understood_as="" if found is None or is_spelled_so else "/".join(found.spelling),
        own_rows=tuple(_described(row) for row in reversed(known.rows_at(utc))),
        prices=tuple(_prices(holding)),
        notes=tuple(_notes(known, holding)),
    )


def why_unpriced(provider: str, model: str, own: Sequence[OwnPrice]) -> str:
    """Why a model has no price in the price version of a day, and what to do."""
    known = layered(provider, model, "", own)
    if any(cells(known)):
        return "unknown to the price version of its day; the current one has a price: usage-pipeline recost"
    return "; ".join(sorted(problems(known)) or [_unknown(known)])


def _holds(price: Price, at: datetime) -> bool:
    """Whether it holds at the moment, for some number of input tokens."""
    return (
        (price.valid_from is None or price.valid_from <= at)
        and (price.valid_until is None or at < price.valid_until)
        and price.daily_from <= at.time()
        and (price.daily_until is None or at.time() < price.daily_until)
    )


def _prices(holding: Sequence[Price]) -> Iterator[ExplainedPrice]:
    before: dict[str, str] = {}
    for price in sorted(holding, key=lambda one: one.input_tokens_from):
        for key, why in price.explained.items():
            # A price that does not change at a threshold is told once.
            if "usd" not in why or before.get(key) == why["usd"]:
                continue
            before[key] = why["usd"]
            yield ExplainedPrice(
                price_key=key,
                usd=why["usd"],
                layer=why["layer"],
                of=why["of"],
                factor=why.get("factor", ""),
                input_tokens_from=price.input_tokens_from,
                valid_from=_text(price.valid_from),
                valid_until=_text(price.valid_until),
                daily_from=price.daily_from.isoformat("minutes"),
                daily_until="24:00" if price.daily_until is None else price.daily_until.isoformat("minutes"),
            )


def _notes(known: LayeredModel, holding: Sequence[Price]) -> Iterator[str]:
    if not holding:
        yield from sorted(problems(known)) or [_unknown(known)]
        return
    one = holding[0]
    if "service_tier" in one.explained:
        yield f"the package has no price of the tier {known.service_tier}: this is the usual one"
    if one.any_of is not None:
        yield f"a request is priced if it has one of: {', '.join(one.any_of)}"
    if one.least_audio_seconds:
        yield f"at least {one.least_audio_seconds:f} seconds of audio are charged"
    if not any("usd" in why for why in one.explained.values()):
        yield "it is listed at no cost"


def _unknown(known: LayeredModel) -> str:
    if known.found is not None or any(row.prices or row.priced_as for row in known.rows):
        return "no price holds at this time"
    near = names.nearest(known.provider, known.model)
    hint = f"; the nearest one is {near}" if near else ""
    return f"unknown model{hint}; give it prices or a priced_as: usage-pipeline prices import"


def _described(row: OwnPrice) -> str:
    said = [row.name, *([f"tier {row.service_tier}"] if row.service_tier else [])]
    said += [f"priced as {row.priced_as}"] if row.priced_as else []
    said += [f"factor {row.factor:f}"] if row.factor is not None else []
    said += [f"from {_text(row.valid_from)}"] if row.valid_from else []
    said += [f"until {_text(row.valid_until)}"] if row.valid_until else []
    return ", ".join(said)


def _text(at: datetime | None) -> str:
    return "" if at is None else at.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
