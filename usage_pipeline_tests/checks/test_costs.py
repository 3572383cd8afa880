"""Reports and list prices that differ are told, and tokens that nobody can price."""

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from usage_pipeline.checks import costs as cost_checks
from usage_pipeline.checks import windows as window_checks
from usage_pipeline.rollups import calendar
from usage_pipeline.rollups.windows import replace_window
from usage_pipeline.settings import Settings
from usage_pipeline_tests.rollups.costs.priced_rig import put_price, store_usage

NOW = datetime(2025, 7, 20, 12, tzinfo=UTC)
AT = datetime(2025, 6, 11, 10, 30, tzinfo=UTC)
DAY = calendar.day_window(date(2025, 6, 11), Settings().timezone)
SPAN = (date(2025, 6, 10), date(2025, 6, 12))
MILLION = {"input_tokens": 1_000_000, "output_tokens": 0}


@pytest.fixture(autouse=True)
def _price(postgres: psycopg.Connection) -> None:
    put_price(postgres, "openai", "gpt-4o", None, {"input_usd": 2, "output_usd": 0})


def stored(postgres: psycopg.Connection, settings: Settings, **members: Any) -> None:
    store_usage(postgres, settings, NOW, AT, usage=MILLION, **members)
    replace_window(postgres, DAY, settings=settings, now=NOW)


def test_a_model_that_is_charged_otherwise_than_its_list_price_is_told(
    settings: Settings, postgres: psycopg.Connection
) -> None:
    stored(postgres, settings)
    stored(postgres, settings, cost_usd=Decimal("2.039"))
    assert cost_checks.cost_difference_faults(postgres, *SPAN) == [], "up to 2 %"
    stored(postgres, settings, cost_usd=Decimal("1.8"))
    assert cost_checks.cost_difference_faults(postgres, *SPAN) == [
        "openai/gpt-4o: senders report 3.839 US dollars for 2 requests, the list price is 4 (-4.0%)"
    ]
    assert cost_checks.cost_difference_faults(postgres, date(2025, 6, 12), date(2025, 6, 12)) == []


def test_what_should_cost_nothing_and_was_charged_is_told(settings: Settings, postgres: psycopg.Connection) -> None:
    stored(postgres, settings, status_code=500, cost_usd=Decimal("0.25"))
    assert cost_checks.cost_difference_faults(postgres, *SPAN) == [
        "openai/gpt-4o: senders report 0.25 US dollars for 1 request, the list price is 0 (it should cost nothing)"
    ]


def test_requests_without_a_list_price_hide_no_other(settings: Settings, postgres: psycopg.Connection) -> None:
    put_price(postgres, "openai", "gpt-4o", "flex", {"input_usd": 0, "output_usd": 0, "any_of": ["input_pixels"]})
    stored(postgres, settings, cost_usd=Decimal(9))
    stored(postgres, settings)
    stored(postgres, settings, service_tier="flex")
    told = ["openai/gpt-4o: senders report 9 US dollars for 1 request, the list price is 2 (+350.0%)"]
    assert cost_checks.cost_difference_faults(postgres, *SPAN) == told, "it is not reported, so it is in no sum"
    store_usage(postgres, settings, NOW, AT, usage=MILLION, cost_usd=Decimal(4), service_tier="flex", team="other")
    replace_window(postgres, DAY, settings=settings, now=NOW)
    assert cost_checks.cost_difference_faults(postgres, *SPAN) == told, "nobody can compare that of the other team"
    assert window_checks.unpriced_faults(postgres, *SPAN) == [
        "openai/gpt-4o: 2 requests, 1 of them with the cost that their senders report, a count is not known, or no price "
        "holds for it"
    ]


def test_tokens_that_are_neither_input_nor_output_are_told(settings: Settings, postgres: psycopg.Connection) -> None:
    stored(postgres, settings, total_tokens=1_000_000)
    assert cost_checks.unattributed_faults(postgres, *SPAN) == []
    stored(postgres, settings, total_tokens=1_000_020, unattributed_tokens=20)
    assert cost_checks.unattributed_faults(postgres, *SPAN) == [
        "openai/gpt-4o: 20 of 2,000,020 tokens are neither input nor output"
    ]
