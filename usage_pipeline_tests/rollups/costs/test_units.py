"""Every unit, tier and report of a request is in the numbers of its hour, day, week and month, and in the views over them."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from usage_pipeline.rollups import calendar
from usage_pipeline.rollups.windows import replace_window
from usage_pipeline.settings import Settings
from usage_pipeline_tests.rigs.windows import window_rows
from usage_pipeline_tests.rollups.costs.priced_rig import give_price, put_price, store_usage

NOW = datetime(2025, 7, 20, 12, tzinfo=UTC)
AT = datetime(2025, 6, 11, 10, 30, tzinfo=UTC)
ZONE = Settings().timezone
HOUR = calendar.hour_window(datetime(2025, 6, 11, 10, tzinfo=UTC), ZONE)
DAY = calendar.day_window(date(2025, 6, 11), ZONE)
ALL = [HOUR, DAY, calendar.week_window(date(2025, 6, 9), ZONE), calendar.month_window(date(2025, 6, 1), ZONE)]
VIEWS = (
    "analytics.usage_user_daily",
    "analytics.usage_hourly_live",
    "reporting.usage_by_hour",
    "reporting.usage_by_team",
    "reporting.usage_by_service",
    "reporting.usage_by_model",
    "reporting.usage_by_user",
)
MONTHS = ("reporting.cost_by_team_and_month", "reporting.cost_by_model_and_month")
MONEY = "cost_usd, list_cost_usd, reported_cost_usd, reported_requests, unpriced_requests, unlisted_requests"


def roll(postgres: psycopg.Connection, settings: Settings) -> None:
    for window in ALL:
        replace_window(postgres, window, settings=settings, now=NOW)


def everywhere(postgres: psycopg.Connection, columns: str, *, but: tuple[str, ...] = ()) -> tuple[Any, ...]:
    """The only row, which all tables and views must show alike."""
    shown = {str(window): window_rows(postgres, window, columns) for window in ALL}
    shown |= {view: postgres.execute(f"select {columns} from {view}").fetchall() for view in VIEWS if view not in but}
    first = next(iter(shown.values()))
    assert len(first) == 1
    assert {name: rows for name, rows in shown.items() if rows != first} == {}
    return first[0]


def money(row: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(str(value) if isinstance(value, Decimal) else value for value in row)


# Provider, model, tier, usage as it is stored, and the cost: the table of issue I.
RIGHT: list[tuple[str, str, str | None, dict[str, Any], str]] = [
    ("openai", "gpt-4o", None, {"input_tokens": 10_000, "output_tokens": 500, "cache_read_tokens": 9_000}, "0.01875"),
    (
        "anthropic",
        "claude-sonnet-4-5",
        None,
        {"input_tokens": 129_205, "output_tokens": 500, "cache_read_tokens": 128_000, "cache_write_tokens": 1_200},
        "0.050415",
    ),
    (
        "google",
        "gemini-2.5-flash",
        None,
        {"input_tokens": 120, "output_tokens": 1_200, "output_reasoning_tokens": 900},
        "0.003036",
    ),
    (
        "openai",
        "gpt-4o-realtime-preview",
        None,
        {"input_tokens": 1_000, "output_tokens": 1_000, "input_audio_tokens": 1_000, "output_audio_tokens": 1_000},
        "0.12",
    ),
    ("openai", "gpt-4o-mini", "batch", {"input_tokens": 1_000_000, "output_tokens": 0}, "0.075"),
]


@pytest.mark.parametrize(("provider", "model", "tier", "usage", "cost"), RIGHT, ids=[one[1] for one in RIGHT])
def test_a_request_costs_what_is_charged_for_it(
    provider: str,
    model: str,
    tier: str | None,
    usage: dict[str, Any],
    cost: str,
    settings: Settings,
    postgres: psycopg.Connection,
) -> None:
    give_price(postgres, provider, model, AT)
    if tier:
        # Half of the usual price, by the provider's own page: the package has no price of the tier.
        put_price(postgres, provider, model, tier, {"input_usd": Decimal("0.075"), "output_usd": Decimal("0.3")})
    store_usage(postgres, settings, NOW, AT, provider=provider, model=model, service_tier=tier, usage=usage)
    live = postgres.execute("select cost_usd from analytics.usage_hourly_live").fetchall()
    roll(postgres, settings)
    assert money(everywhere(postgres, MONEY)) == (cost, cost, None, 0, 0, 0)
    assert len(live) == 1, "the view has the hour also before it is rolled up"
    names = (
        "input_tokens",
        "output_tokens",
        *(name for name in usage if name not in ("input_tokens", "output_tokens")),
    )
    assert everywhere(postgres, ", ".join(names)) == tuple(usage[name] for name in names)


def test_units_without_a_column_are_summed_up_by_name_and_charged(
    settings: Settings, postgres: psycopg.Connection
) -> None:
    give_price(postgres, "anthropic", "claude-sonnet-4-5", AT)
    of = {"provider": "anthropic", "model": "claude-sonnet-4-5"}
    hour_of_cache = {"cache_write_tokens": 1_000, "cache_write_1h_tokens": 1_000, "web_searches": 3}
    plain = {"input_tokens": 2_000, "output_tokens": 0}
    store_usage(postgres, settings, NOW, AT, **of, usage={**plain, **hour_of_cache})
    store_usage(postgres, settings, NOW, AT, **of, usage={**plain, "web_searches": 2, "input_characters": 12.5})
    store_usage(postgres, settings, NOW, AT, **of, usage=plain)
    roll(postgres, settings)
    # 5,000 tokens at 3, 1,000 at 6 US dollars a million, and five searches at 10 a thousand.
    assert money(everywhere(postgres, MONEY)) == ("0.071", "0.071", None, 0, 0, 0)
    units = {"cache_write_1h_tokens": 1_000, "web_searches": 5, "input_characters": 12.5}
    assert everywhere(postgres, "other_units, cache_write_tokens") == (units, 1_000)


def test_a_count_that_cannot_be_known_matters_where_it_has_a_price(
    settings: Settings, postgres: psycopg.Connection
) -> None:
    give_price(postgres, "google", "gemini-2.5-flash", AT)
    give_price(postgres, "openai", "gpt-4o", AT)
    usage = {"input_tokens": 2_000, "output_tokens": 500, "cache_audio_read_tokens": None, "web_searches": 1}
    store_usage(postgres, settings, NOW, AT, provider="google", model="gemini-2.5-flash", usage=usage)
    roll(postgres, settings)
    assert money(everywhere(postgres, MONEY)) == (None, None, None, 0, 1, 1)
    assert everywhere(postgres, "other_units, input_tokens") == ({"web_searches": 1}, 2_000), "what is known is counted"
    postgres.execute("update analytics.usage_events set provider = 'openai', model = 'gpt-4o'")
    roll(postgres, settings)
    assert money(everywhere(postgres, MONEY)) == ("0.02", "0.02", None, 0, 0, 0)


def test_a_model_that_is_priced_by_other_units_alone_needs_one_of_them(
    settings: Settings, postgres: psycopg.Connection
) -> None:
    units = {"any_of": ["input_image_tokens", "input_pixels"], "input_usd": 0, "output_usd": 0, "input_image_usd": 7}
    put_price(
        postgres, "acme", "eyes", None, {**units, "other_usd": '{"input_image_tokens": 7e-6, "input_pixels": 0.5}'}
    )
    of = {"provider": "acme", "model": "eyes"}
    plain = {"input_tokens": None, "output_tokens": None}
    expected = []
    for usage, cost in [
        ({}, (None, 1)),
        ({"input_image_tokens": 1_000_000}, ("7", 1)),
        ({"input_pixels": 2}, ("8", 1)),
        ({"output_image_tokens": 5}, ("8", 2)),
    ]:
        store_usage(postgres, settings, NOW, AT, **of, usage={**plain, **usage})
        roll(postgres, settings)
        expected.append(money(everywhere(postgres, "cost_usd, unlisted_requests")))
        assert expected[-1] == cost


@pytest.mark.parametrize(
    ("units", "seconds"),
    [
        ({"audio_seconds": 3}, 10),
        ({"audio_seconds": 3, "input_audio_seconds": 3}, 10),
        ({"input_audio_seconds": 4}, 10),
        ({"audio_seconds": 0, "input_audio_seconds": 60}, 60),
        ({"audio_seconds": 12.5}, 12.5),
        ({"audio_seconds": 0}, 0),
        ({"input_text_messages": 2}, 0),
    ],
)
def test_audio_is_charged_for_at_least_as_long_as_the_provider_says(
    units: dict[str, float], seconds: float, settings: Settings, postgres: psycopg.Connection
) -> None:
    give_price(postgres, "groq", "whisper-large-v3", AT, least_audio_seconds=10)
    usage = {"input_tokens": None, "output_tokens": None, **units}
    for _ in range(3):
        store_usage(postgres, settings, NOW, AT, provider="groq", model="whisper-large-v3", usage=usage)
    roll(postgres, settings)
    cost, shown = everywhere(postgres, "cost_usd, other_units")
    assert abs(cost - 3 * Decimal(str(seconds)) * Decimal("0.111") / 3600) < Decimal("1e-15")
    assert shown == {name: 3 * count for name, count in units.items()}, "what is shown is what came"


def test_what_senders_were_charged_stands_beside_the_list_price_and_wins(
    settings: Settings, postgres: psycopg.Connection
) -> None:
    give_price(postgres, "openai", "gpt-4o", AT)
    usage = {"input_tokens": 2_000, "output_tokens": 500}
    store_usage(postgres, settings, NOW, AT, usage=usage)
    store_usage(postgres, settings, NOW, AT, usage=usage, cost_usd=Decimal("0.0042"))
    store_usage(postgres, settings, NOW, AT, usage=usage, cost_usd=Decimal(0))
    # Without a list price: its tokens are not known; it failed without output, and was charged nevertheless; its tier is new.
    store_usage(postgres, settings, NOW, AT, usage={"input_tokens": None, "output_tokens": None}, cost_usd=Decimal(2))
    store_usage(
        postgres,
        settings,
        NOW,
        AT,
        status_code=500,
        output_tokens=0,
        usage={"input_tokens": 5},
        cost_usd=Decimal("0.5"),
    )
    put_price(postgres, "openai", "gpt-4o", "priority", {"input_usd": 4, "output_usd": 16})
    store_usage(postgres, settings, NOW, AT, usage=usage, service_tier="priority")
    store_usage(postgres, settings, NOW, AT, usage={"input_tokens": None, "output_tokens": None})
    roll(postgres, settings)
    assert money(everywhere(postgres, MONEY)) == ("2.5302", "0.046", "2.5042", 4, 1, 2)
    assert (
        money(postgres.execute(f"select {MONEY} from {MONTHS[0]}").fetchall()[0])
        == (money(postgres.execute(f"select {MONEY} from {MONTHS[1]}").fetchall()[0]))
        == ("2.5302", "0.046", "2.5042", 4, 1, 2)
    )


def test_a_price_belongs_to_its_tier_alone(settings: Settings, postgres: psycopg.Connection) -> None:
    put_price(postgres, "openai", "gpt-4o", None, {"input_usd": 2, "output_usd": 0})
    put_price(postgres, "openai", "gpt-4o", "batch", {"input_usd": 1, "output_usd": 0})
    usage = {"input_tokens": 1_000_000, "output_tokens": 0}
    for tier in (None, "batch", "batch", "flex"):
        store_usage(postgres, settings, NOW, AT, usage=usage, service_tier=tier)
    postgres.execute(
        "insert into analytics.model_lookups (price_version, provider, model, service_tier) "
        "select price_version, 'openai', 'gpt-4o', 'flex' from analytics.price_versions"
    )
    roll(postgres, settings)
    assert money(everywhere(postgres, "cost_usd, unpriced_requests")) == ("4", 1)


def test_tokens_that_nothing_explains_are_counted(settings: Settings, postgres: psycopg.Connection) -> None:
    give_price(postgres, "openai", "gpt-4o", AT)
    for at in (AT, AT + timedelta(minutes=1)):
        store_usage(postgres, settings, NOW, at, unattributed_tokens=20, total_tokens=2_520)
    roll(postgres, settings)
    assert everywhere(postgres, "unattributed_tokens, total_tokens") == (40, 5_040)
