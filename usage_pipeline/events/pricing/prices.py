"""Prices of the package genai-prices, as rows that do not overlap. They are looked up when a model is first seen.

The name of a price version is the package and its version. Its rows are added model by model and never change, so that the
same version gives the same costs. Each day has one price version (`rollups.day_prices`).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from importlib.metadata import version
from itertools import zip_longest
from typing import TypeVar

import psycopg
from genai_prices.data_snapshot import get_snapshot
from genai_prices.types import ModelInfo, ModelPrice, StartDateConstraint, TieredPrices, TimeOfDateConstraint

from usage_pipeline.storage.sql import load

PACKAGE = "genai-prices"
_MIDNIGHT = time(0, 0)
_ANY_DAY = date(2000, 1, 1)
_Cut = TypeVar("_Cut", date, time, int)


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars per million tokens, and per request, within half-open bounds; None: no bound.

    `daily_from` and `daily_until` are times of day in UTC; `input_tokens_from` and `_until` are the input tokens of a
    request, which choose the price of all of its tokens.
    """

    provider: str
    model: str
    input_usd: Decimal
    output_usd: Decimal
    request_usd: Decimal = Decimal(0)
    valid_from: datetime | None = None
    valid_until: datetime | None = None
    daily_from: time = _MIDNIGHT
    daily_until: time | None = None
    input_tokens_from: int = 0
    input_tokens_until: int | None = None
    service_tier: str = ""


@dataclass(frozen=True, slots=True)
class Lookup:
    """The model that the package found. `priced_as` is None, and there are no prices, if it has none by tokens."""

    provider: str
    model: str
    priced_as: str | None
    prices: tuple[Price, ...]
    service_tier: str = ""


def package_version() -> str:
    """The price version of the installed package, which new days get."""
    return f"{PACKAGE} {version(PACKAGE)}"


def look_up(provider: str, model: str, service_tier: str = "") -> Lookup:
    """Finds the prices of a model by the package's own rules; it understands many spellings of both names."""
    try:
        found_provider, found = get_snapshot().find_provider_model(model, None, provider, None)
    except LookupError:
        return Lookup(provider, model, None, (), service_tier)
    prices = tuple(replace(price, service_tier=service_tier) for price in _prices(provider, model, found))
    return Lookup(provider, model, f"{found_provider.id}/{found.id}" if prices else None, prices, service_tier)


def add_lookups(connection: psycopg.Connection, models: Iterable[tuple[str, str, str]]) -> None:
    """Stores the prices of these (provider, model, service tier or "") under the package's version.

    On an autocommit connection. Safe to repeat, and from two processes at once: both find the same.
    """
    price_version = package_version()
    lookups = [look_up(*model) for model in sorted(set(models))]
    with connection.transaction():
        add_version(connection, price_version, source=PACKAGE, checksum=None)
        with connection.cursor() as cursor:
            cursor.executemany(
                load("events/pricing/insert_model_lookup"),
                [
                    {
                        "price_version": price_version,
                        "provider": lookup.provider,
                        "model": lookup.model,
                        "service_tier": lookup.service_tier,
                        "priced_as": lookup.priced_as,
                    }
                    for lookup in lookups
                ],
            )
        add_prices(connection, price_version, [price for lookup in lookups for price in lookup.prices])


def add_version(connection: psycopg.Connection, price_version: str, *, source: str, checksum: str | None) -> None:
    """Stores a version, unless it is stored."""
    parameters = {"price_version": price_version, "source": source, "checksum": checksum}
    connection.execute(load("events/pricing/insert_price_version"), parameters)


def add_prices(connection: psycopg.Connection, price_version: str, prices: Sequence[Price]) -> None:
    """Adds prices to a version. Prices that are stored stay."""
    with connection.cursor() as cursor:
        cursor.executemany(
            load("events/pricing/insert_model_price"),
            [{"price_version": price_version, **asdict(price)} for price in prices],
        )


def _prices(provider: str, model: str, found: ModelInfo) -> Iterator[Price]:
    """Prices that do not overlap. The package checks its conditions for each request. Between two moments at which a condition
    changes, its answer is the same; so we ask once for each such span.
    """
    conditions = [] if isinstance(found.prices, ModelPrice) else [one.constraint for one in found.prices]
    starts = sorted({one.start_date for one in conditions if isinstance(one, StartDateConstraint)})
    times = [one for one in conditions if isinstance(one, TimeOfDateConstraint)]
    turns = sorted({_MIDNIGHT, *(_in_utc(at) for one in times for at in (one.start_time, one.end_time))})
    before_all = (starts[0] if starts else _ANY_DAY) - timedelta(days=1)
    for day, next_day in _spans([before_all, *starts]):
        for turn, next_turn in _spans(turns):
            price = found.get_prices(datetime.combine(day, turn, UTC))
            for least, beyond, input_usd, output_usd in _tiers(price):
                yield Price(
                    provider=provider,
                    model=model,
                    input_usd=input_usd,
                    output_usd=output_usd,
                    request_usd=_flat(price.requests_kcount, 0).scaleb(-3),
                    valid_from=None if day == before_all else datetime.combine(day, _MIDNIGHT, UTC),
                    valid_until=None if next_day is None else datetime.combine(next_day, _MIDNIGHT, UTC),
                    daily_from=turn,
                    daily_until=next_turn,
                    input_tokens_from=least,
                    input_tokens_until=beyond,
                )


def _tiers(price: ModelPrice) -> Iterator[tuple[int, int | None, Decimal, Decimal]]:
    """Input tokens from, input tokens to (not included), and both prices. Empty for models without a price by text tokens."""
    both = (price.input_mtok, price.output_mtok)
    if both == (None, None):
        return
    # A tier begins above its threshold, not at it.
    cuts = sorted({0, *(tier.start + 1 for one in both if isinstance(one, TieredPrices) for tier in one.tiers)})
    for least, beyond in _spans(cuts):
        yield least, beyond, _flat(both[0], least), _flat(both[1], least)


def _flat(price: Decimal | TieredPrices | None, input_tokens: int) -> Decimal:
    """The price for a request with so many input tokens."""
    if not isinstance(price, TieredPrices):
        return price or Decimal(0)
    reached = [tier.price for tier in price.tiers if input_tokens > tier.start]
    return reached[-1] if reached else price.base


def _spans(cuts: Sequence[_Cut]) -> Iterator[tuple[_Cut, _Cut | None]]:
    """Each element with the one after it."""
    return zip_longest(cuts, cuts[1:])


def _in_utc(at: time) -> time:
    return at if at.tzinfo is None else datetime.combine(_ANY_DAY, at).astimezone(UTC).time()
