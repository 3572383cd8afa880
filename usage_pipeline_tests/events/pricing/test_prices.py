"""Prices of the package as rows: for every model, moment and size they say what the package itself says, and only once."""

import random
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal

import pytest
from genai_prices import Usage, calc_price
from genai_prices.data_snapshot import get_snapshot
from genai_prices.types import (
    ClauseEquals,
    ConditionalPrice,
    ModelInfo,
    ModelPrice,
    StartDateConstraint,
    Tier,
    TieredPrices,
    TimeOfDateConstraint,
)

from usage_pipeline.events.pricing import prices as cost
from usage_pipeline.events.pricing.prices import Price, look_up

MOMENTS = [
    *(datetime(2026, 3, 5, hour, minute, tzinfo=UTC) for hour in (0, 8, 16) for minute in (0, 29, 30)),
    datetime(2025, 6, 9, 23, 59, 59, tzinfo=UTC),
    datetime(2025, 6, 10, tzinfo=UTC),
    datetime(2026, 8, 17, tzinfo=UTC),
    datetime(2026, 10, 1, 17, 30, tzinfo=UTC),
]
SIZES = [0, 1, 32_000, 100_000, 100_001, 128_000, 128_001, 200_000, 200_001, 272_001, 2_000_000]


def holds(price: Price, at: datetime, input_tokens: int) -> bool:
    return (
        (price.valid_from is None or price.valid_from <= at)
        and (price.valid_until is None or at < price.valid_until)
        and price.daily_from <= at.time()
        and (price.daily_until is None or at.time() < price.daily_until)
        and price.input_tokens_from <= input_tokens
        and (price.input_tokens_until is None or input_tokens < price.input_tokens_until)
    )


def costs(prices: tuple[Price, ...], at: datetime, input_tokens: int, output_tokens: int) -> Decimal:
    [price] = [price for price in prices if holds(price, at, input_tokens)]
    return (price.input_usd * input_tokens + price.output_usd * output_tokens) / 1_000_000 + price.request_usd


def test_every_model_of_the_package_costs_what_the_package_says() -> None:
    chance = random.Random(5)
    compared = 0
    for provider in get_snapshot().providers:
        for model in provider.models:
            found = look_up(provider.id, model.id)
            for _ in range(6 if found.prices else 0):
                at, size, output = chance.choice(MOMENTS), chance.choice(SIZES), chance.randrange(10_000)
                expected = calc_price(
                    Usage(input_tokens=size, output_tokens=output),
                    model.id,
                    provider_id=provider.id,
                    genai_request_timestamp=at,
                )
                assert costs(found.prices, at, size, output) == expected.total_price, (provider.id, model.id, at, size)
                compared += 1
    assert compared > 5_000


def test_later_conditions_take_precedence_over_earlier_ones_at_each_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new price in the middle, and cheaper nights over midnight that begin with an offset."""
    model = ModelInfo(
        "m",
        ClauseEquals("m"),
        prices=[
            ConditionalPrice(prices=ModelPrice(input_mtok=Decimal(10), output_mtok=Decimal(40))),
            ConditionalPrice(
                StartDateConstraint(datetime(2026, 3, 5, tzinfo=UTC).date()),
                prices=ModelPrice(
                    input_mtok=TieredPrices(Decimal(2), [Tier(100, Decimal(3)), Tier(1_000, Decimal(4))]),
                    output_mtok=TieredPrices(Decimal(8), [Tier(500, Decimal(9))]),
                    requests_kcount=Decimal(5),
                ),
            ),
            ConditionalPrice(
                TimeOfDateConstraint(time(22, tzinfo=UTC), time.fromisoformat("06:00:00+02:00")),
                prices=ModelPrice(input_mtok=Decimal(1)),
            ),
        ],
    )
    prices = tuple(cost._prices("p", "m", model))
    start = datetime(2026, 3, 3, tzinfo=UTC)
    for minutes in range(0, 4 * 1_440, 60):
        at = start + timedelta(minutes=minutes)
        for size in (0, 100, 101, 500, 501, 1_000, 1_001):
            expected = model.get_prices(at).calc_price(Usage(input_tokens=size, output_tokens=7))["total_price"]
            assert costs(prices, at, size, 7) == expected, (at, size)


@pytest.mark.parametrize(
    ("provider", "model", "priced_as"),
    [
        ("openai", "gpt-4o", "openai/gpt-4o"),
        ("OpenAI", "gpt-4o-2024-08-06", "openai/gpt-4o"),
        ("anthropic", "claude-3-5-haiku-20241022", "anthropic/claude-3-5-haiku-latest"),
        ("openai", "unheard-of", None),
        ("acme", "gpt-4o", None),
        ("mistral", "mistral-ocr-2503", None),
        ("", "", None),
        ("openai", "((", None),
    ],
)
def test_names_are_understood_as_the_package_does_and_others_have_no_price(
    provider: str, model: str, priced_as: str | None
) -> None:
    found = look_up(provider, model)
    assert found.priced_as == priced_as
    assert bool(found.prices) == (priced_as is not None)
