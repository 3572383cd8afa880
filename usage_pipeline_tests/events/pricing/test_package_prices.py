"""Prices of the package as rows: for every model, unit, moment, tier and size they say what the package itself says."""

import random
from collections.abc import Iterator
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal

import pytest
from genai_prices import Usage
from genai_prices.types import (
    ClauseEquals,
    ConditionalPrice,
    ModelInfo,
    ModelPrice,
    PriceVariant,
    Provider,
    StartDateConstraint,
    Tier,
    TieredPrices,
    TimeOfDateConstraint,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from usage_pipeline.events.pricing.cells import cells
from usage_pipeline.events.pricing.explanation import explain
from usage_pipeline.events.pricing.layers import LayeredModel
from usage_pipeline.events.pricing.lookups import look_up
from usage_pipeline.events.pricing.names import Found
from usage_pipeline.events.pricing.prices import Price
from usage_pipeline_tests.events.pricing.random_usage import all_models, difference, our_cost, random_case

AT = datetime(2026, 11, 20, 12, tzinfo=UTC)
MODELS = all_models()


def test_every_model_of_the_package_costs_what_the_package_says() -> None:
    chance = random.Random(5)
    told = [difference(random_case(chance, *model)) for model in MODELS]
    assert len(told) > 2_000
    assert [one for one in told if one] == []


@settings(max_examples=300, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(0, len(MODELS) - 1))
def test_random_usage_costs_what_the_package_says(chance: random.Random, number: int) -> None:
    assert difference(random_case(chance, *MODELS[number])) == ""


@pytest.mark.parametrize(
    ("provider", "model", "tier", "usage", "usd"),
    [
        ("openai", "gpt-4o", "", {"input_tokens": 10_000, "cache_read_tokens": 9_000, "output_tokens": 500}, "0.01875"),
        (
            "anthropic",
            "claude-sonnet-4-5",
            "",
            {"input_tokens": 129_205, "cache_read_tokens": 128_000, "cache_write_tokens": 1_200, "output_tokens": 500},
            "0.050415",
        ),
        (
            "google",
            "gemini-2.5-flash",
            "",
            {"input_tokens": 120, "output_tokens": 1_200, "output_reasoning_tokens": 900},
            "0.003036",
        ),
        (
            "openai",
            "gpt-4o-realtime-preview",
            "",
            {"input_tokens": 1_000, "input_audio_tokens": 1_000, "output_tokens": 1_000, "output_audio_tokens": 1_000},
            "0.12",
        ),
        ("openai", "gpt-4o-mini", "batch", {"input_tokens": 1_000_000, "output_tokens": 0}, "0.075"),
        ("groq", "whisper-large-v3", "", {"audio_seconds": 3, "input_audio_seconds": 3}, "0.000308333333333333"),
        # Less than a second, at a price of an hour that has no end of decimals for a second.
        ("mistral", "voxtral-small-24b-2507", "", {"audio_seconds": Decimal("0.3")}, "0.00002"),
    ],
)
def test_the_usages_that_were_priced_wrongly(
    provider: str, model: str, tier: str, usage: dict[str, int | Decimal], usd: str
) -> None:
    for at in (AT, datetime(2026, 10, 1, tzinfo=UTC)):
        cost = our_cost(look_up(provider, model, tier).prices, at, usage)
        assert cost is not None
        assert abs(cost - Decimal(usd)) < Decimal("1e-15")


def found(**prices: object) -> LayeredModel:
    model = ModelInfo("m", ClauseEquals("m"), **prices)  # type: ignore[arg-type]
    provider = Provider("p", "P", "", models=[model])
    return LayeredModel("p", "m", "", Found(provider, model, ("p", "m")), ())


def test_later_conditions_take_precedence_over_earlier_ones_at_each_moment() -> None:
    """A new price in the middle, and cheaper nights over midnight that begin with an offset."""
    one = found(
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
    assert one.found is not None
    prices = tuple(cells(one))
    start = datetime(2026, 3, 3, tzinfo=UTC)
    for minutes in range(0, 4 * 1_440, 60):
        at = start + timedelta(minutes=minutes)
        for size in (0, 100, 101, 500, 501, 1_000, 1_001):
            usage = {"input_tokens": size, "output_tokens": 7}
            expected = one.found.model.get_prices(at).calc_price(Usage(**usage))["total_price"]
            assert our_cost(prices, at, usage) == expected, (at, size)


def test_what_the_package_cannot_price_at_a_time_has_no_row_at_that_time() -> None:
    wrong = ModelPrice(input_mtok=Decimal(1), cache_read_mtok=Decimal(1), input_audio_mtok=Decimal(1))
    one = found(
        prices=[
            ConditionalPrice(prices=ModelPrice(input_mtok=Decimal(1))),
            ConditionalPrice(StartDateConstraint(AT.date()), prices=wrong),
        ]
    )
    [price] = cells(one)
    assert price.valid_until == datetime(2026, 11, 20, tzinfo=UTC)


def test_a_tier_of_the_package_comes_before_the_shipped_discount_and_unknown_tiers_cost_as_usual_and_say_so() -> None:
    def at(provider: str, model: str, tier: str) -> tuple[Price, ...]:
        return look_up(provider, model, tier).prices

    usual = our_cost(at("openai", "gpt-4o", ""), AT, {"input_tokens": 1_000_000, "output_tokens": 0})
    assert usual == Decimal("2.5")
    assert our_cost(at("azure", "gpt-4o", "batch"), AT, {"input_tokens": 1_000_000}) == Decimal("1.25")
    assert our_cost(at("azure", "gpt-4o", "batch"), AT, {"web_searches": 1_000}) == Decimal(10)
    assert our_cost(at("azure", "gpt-4o", "Batch"), AT, {"input_tokens": 1_000_000}) == Decimal("1.25")
    assert our_cost(at("azure", "gpt-4o", "gold"), AT, {"input_tokens": 1_000_000}) == Decimal("2.5")
    assert explain("azure", "gpt-4o", "gold", AT, ()).notes == (
        "the package has no price of the tier gold: this is the usual one",
    )
    [why] = {one.factor for one in explain("azure", "gpt-4o", "batch", AT, ()).prices if one.price_key == "input_mtok"}
    assert why.startswith("0.5 (batch, https://learn.microsoft.com/")
    # Groq's flex tier costs as usual: nobody says that it is half.
    flex = our_cost(at("groq", "llama-3.3-70b-versatile", "flex"), AT, {"input_tokens": 1_000_000})
    assert flex == our_cost(at("groq", "llama-3.3-70b-versatile", ""), AT, {"input_tokens": 1_000_000}) != 0


def test_a_price_of_a_tier_that_is_the_usual_one_is_not_discounted() -> None:
    prices = ModelPrice(input_mtok=Decimal(4))
    one = found(prices=prices, price_variants=[PriceVariant({"processing": "batch"}, prices)])
    assert one.found is not None
    of_openai = Provider("openai", "O", "", models=[one.found.model])
    batch = LayeredModel("openai", "m", "batch", Found(of_openai, one.found.model, ("openai", "m")), ())
    assert [price.input_usd for price in cells(batch)] == [Decimal(4)]


def spelled() -> Iterator[tuple[str, str, str | None]]:
    sonnet = "regional.anthropic.claude-sonnet-4-20250514-v1:0"
    arn = "arn:aws:bedrock:eu-west-1"
    yield from (
        ("openai", "gpt-4o", "openai/gpt-4o"),
        ("OpenAI", "GPT-4o-2024-08-06", "openai/gpt-4o"),
        ("openai", "openai/gpt-4o", "openai/gpt-4o"),
        ("openai", "gpt-4.1-2026-01-31", "openai/gpt-4.1"),
        ("anthropic", "claude-3-5-haiku-20241022", "anthropic/claude-3-5-haiku-latest"),
        ("azure", "azure/gpt-4o", "azure/gpt-4o"),
        ("azure", "azure/eu/gpt-4o", "azure/gpt-4o"),
        ("azure", "gpt-35-turbo", "azure/gpt-3.5-turbo"),
        ("azure", "my-team-gpt4o", None),
        ("gateway", "azure/gpt-4o", "azure/gpt-4o"),
        ("unknown", "gpt-4o", "openai/gpt-4o"),
        ("unknown", "vertex_ai/gemini-2.5-pro", "google/gemini-2.5-pro"),
        ("openrouter", "openrouter/anthropic/claude-sonnet-4", "openrouter/anthropic/claude-sonnet-4"),
        ("openrouter", "openai/gpt-4o:free", "openrouter/openai/gpt-4o:free"),
        ("openrouter", "deepseek/deepseek-chat-v3.1:free", "openrouter/deepseek/deepseek-chat-v3.1:free"),
        ("unknown", "openrouter/deepseek/deepseek-chat-v3.1:free", "openrouter/deepseek/deepseek-chat-v3.1:free"),
        ("openrouter", "OpenRouter/deepseek/deepseek-chat:free", "openrouter/deepseek/deepseek-chat:free"),
        ("openai", "gpt-4o:free", None),
        ("google", "models/gemini-2.5-flash", "google/gemini-2.5-flash"),
        ("google", "projects/p/locations/l/publishers/google/models/gemini-2.5-flash", "google/gemini-2.5-flash"),
        ("vertex_ai", "vertex_ai/gemini-2.5-pro", "google/gemini-2.5-pro"),
        ("bedrock", "bedrock/us.anthropic.claude-sonnet-4-20250514-v1:0", f"aws/{sonnet}"),
        ("bedrock", "bedrock/us-east-1/anthropic.claude-sonnet-4-20250514-v1:0", f"aws/{sonnet}"),
        ("bedrock", "apac.anthropic.claude-sonnet-4-20250514-v1:0", f"aws/{sonnet}"),
        ("bedrock", f"{arn}::foundation-model/anthropic.claude-sonnet-4-20250514-v1:0", f"aws/{sonnet}"),
        ("x", f"{arn}:123456789012:inference-profile/eu.anthropic.claude-sonnet-4-20250514-v1:0", f"aws/{sonnet}"),
        ("bedrock", f"{arn}:123456789012:application-inference-profile/ab12cd34", None),
        ("openai", "unheard-of", None),
        ("acme", "gpt-4o", None),
        ("acme", "acme/gpt-4o", None),
        ("mistral", "mistral-ocr-2503", "mistral/mistral-ocr-2503"),
        ("", "", None),
        ("openai", "((", None),
    )


@pytest.mark.parametrize(("provider", "model", "priced_as"), list(spelled()))
def test_names_are_understood_as_they_are_and_without_usual_prefixes_and_others_have_no_price(
    provider: str, model: str, priced_as: str | None
) -> None:
    known = look_up(provider, model)
    assert known.priced_as == priced_as
    assert bool(known.prices) == (priced_as is not None)


def test_an_unknown_model_is_told_with_the_nearest_name() -> None:
    unknown = explain("openai", "gpt4o", "", AT, ())
    assert not unknown.is_priced
    assert "the nearest one is openai/gpt-4o" in unknown.notes[0]
