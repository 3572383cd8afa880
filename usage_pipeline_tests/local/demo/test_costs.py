"""The costs of the demo: what is expected is the price package's, and what is stored and differs is seen."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from zoneinfo import ZoneInfo

import psycopg
import pytest

from usage_pipeline.events.ingest.batches import EVENTS, ingest
from usage_pipeline.events.pricing.own_prices import OwnPrice
from usage_pipeline.events.pricing.own_versions import import_prices, newest_version, own_prices
from usage_pipeline.local.demo.changes import make_again, mistake_among, put_right
from usage_pipeline.local.demo.costs import Costs, compare_costs, list_cost
from usage_pipeline.local.demo.findings import findings
from usage_pipeline.local.demo.prices import OWN_PRICES, import_own_prices, price_versions, recost_days
from usage_pipeline.local.traffic.services import ALIASED, OWN_PRICED, UNPRICED, SentEvent, made_up_usage
from usage_pipeline.rollups.calendar import day_window
from usage_pipeline.rollups.windows import replace_window
from usage_pipeline.settings import Settings
from usage_pipeline_tests.rigs.clock import days_ago, today
from usage_pipeline_tests.rigs.events import as_items, event

MARK = "1795271558"
DAYS = [days_ago(ago) for ago in range(29, -1, -1)]


def usage(seed: int = 7, mark: str = MARK) -> list[SentEvent]:
    return made_up_usage(seed, 600, DAYS, now=datetime.now(UTC), zone=ZoneInfo("UTC"), mark=mark)


def store(connection: psycopg.Connection, settings: Settings, events: Sequence[SentEvent]) -> None:
    report = ingest(
        connection, EVENTS, as_items(*(dict(one.event) for one in events)), source="test", settings=settings
    )
    assert report.inserted == len(events)


def roll_up(connection: psycopg.Connection, settings: Settings) -> None:
    for day in DAYS:
        replace_window(connection, day_window(day, settings.timezone), settings=settings)


@pytest.fixture
def sent(postgres: psycopg.Connection, settings: Settings, tmp_path: Path) -> list[SentEvent]:
    """The demo's events, stored and rolled up with its own prices; another demo and somebody else were there before."""
    import_own_prices(postgres, tmp_path)
    store(postgres, settings, usage(5, "1795271000"))
    others = event(user_id="user-01", provider=OWN_PRICED[0], model=OWN_PRICED[1])
    ingest(postgres, EVENTS, as_items(others), source="test", settings=settings)
    events = usage()
    store(postgres, settings, events)
    roll_up(postgres, settings)
    return events


def differences(costs: Costs) -> dict[str, Decimal]:
    return {result.measure: result.difference for result in costs.results if result.difference}


def test_the_stored_costs_are_those_of_the_price_package(
    postgres: psycopg.Connection, settings: Settings, sent: list[SentEvent]
) -> None:
    costs = compare_costs(postgres, MARK, sent, settings)
    assert differences(costs) == {}
    assert costs.uncompared_requests == 0
    found = {result.measure: result for result in costs.results}
    assert all(result.expected == pytest.approx(result.stored, abs=Decimal("1e-9")) for result in costs.results)
    listed, reported, charged = (found[name].stored for name in ("list_cost_usd", "reported_cost_usd", "cost_usd"))
    assert listed > charged > reported > 0
    unpriced = sum(
        (one.event["provider"], one.event["model"]) == UNPRICED and "error_type" not in one.event for one in sent
    )
    assert found["unpriced_requests"].stored == unpriced > 0


@pytest.mark.parametrize(
    ("statement", "measures"),
    [
        (
            "update analytics.usage_user_daily set list_cost_usd = list_cost_usd + 0.00000001 where provider = 'google'",
            {"list_cost_usd"},
        ),
        ("update analytics.usage_daily set cost_usd = cost_usd * 2 where model = 'gpt-4o'", {"cost_usd"}),
        (
            "update analytics.usage_user_daily set unpriced_requests = 0 where model = 'gpt4o-mini'",
            {"unpriced_requests"},
        ),
        (
            "delete from analytics.usage_user_daily where service = 'voice'",
            {"list_cost_usd", "cost_usd"},
        ),
    ],
)
def test_a_cost_that_is_wrong_is_a_difference(
    postgres: psycopg.Connection, settings: Settings, sent: list[SentEvent], statement: str, measures: set[str]
) -> None:
    postgres.execute(statement)  # type: ignore[call-overload]  # a constant of this test
    assert set(differences(compare_costs(postgres, MARK, sent, settings))) == measures


@pytest.mark.parametrize(
    ("model", "changes", "cost"),
    [
        (("openai", "gpt-4o"), {"input_tokens": 10_000, "output_tokens": 500, "cache_read_tokens": 9_000}, "0.01875"),
        (
            ("anthropic", "claude-sonnet-4-5"),
            {
                "input_tokens": 129_205,
                "output_tokens": 500,
                "cache_read_tokens": 128_000,
                "cache_write_tokens": 1_200,
                "cache_write_5m_tokens": 1_200,
            },
            "0.050415",
        ),
        (
            ("google", "gemini-2.5-flash"),
            {"input_tokens": 120, "output_tokens": 1_200, "output_reasoning_tokens": 900},
            "0.003036",
        ),
        (
            ("openai", "gpt-4o-realtime-preview"),
            {"input_tokens": 1_000, "output_tokens": 1_000, "input_audio_tokens": 1_000, "output_audio_tokens": 1_000},
            "0.12",
        ),
        (OWN_PRICED, {"input_tokens": 1_000_000, "output_tokens": 1_000_000}, "0.8"),
        (ALIASED, {"input_tokens": 1_000_000, "output_tokens": 0}, "0.15"),
    ],
)
def test_what_is_expected_is_what_the_specification_says(
    model: tuple[str, str], changes: dict[str, int], cost: str
) -> None:
    told = {"provider": model[0], "model": model[1], "event_time": "2026-11-20T12:00:00+00:00"}
    own = next((row for row in OWN_PRICES if (row.provider, row.model) == model), None)
    assert list_cost(SentEvent(told, changes), own) == Decimal(cost)


def test_batch_is_half_also_before_the_package_had_a_price_of_it() -> None:
    units = {"input_tokens": 1_000_000, "output_tokens": 0}
    for at in ("2026-01-20T12:00:00+00:00", "2026-11-20T12:00:00+00:00"):
        told = {"provider": "openai", "model": "gpt-4o-mini", "event_time": at, "service_tier": "batch"}
        assert list_cost(SentEvent(told, units), None) == Decimal("0.075")


def test_own_prices_are_imported_once_and_nothing_of_others_changes(
    postgres: psycopg.Connection, tmp_path: Path
) -> None:
    mine = OwnPrice("openai", "gpt-4o", factor=Decimal("0.9"))
    import_prices(postgres, [mine])
    import_own_prices(postgres, tmp_path)
    after = own_prices(postgres, newest_version(postgres))
    assert set(map(repr, after)) == {repr(row) for row in (mine, *OWN_PRICES)}
    changed = OwnPrice(*OWN_PRICED, prices={"input_mtok": Decimal(9), "output_mtok": Decimal(9)})
    import_prices(postgres, [changed])
    version = newest_version(postgres)
    import_own_prices(postgres, tmp_path)
    assert newest_version(postgres) == version
    assert changed in own_prices(postgres, version)


def test_days_with_older_prices_get_the_demo_s_own_unless_others_prices_would_change(
    postgres: psycopg.Connection, settings: Settings, tmp_path: Path
) -> None:
    earlier, later = days_ago(2), days_ago(1)
    for day in (earlier, later):
        at = datetime(day.year, day.month, day.day, 12, tzinfo=UTC).isoformat()
        ingest(postgres, EVENTS, as_items(event(event_time=at)), source="test", settings=settings)
        replace_window(postgres, day_window(day, settings.timezone), settings=settings)
        if day == earlier:
            import_prices(postgres, [OwnPrice("openai", "gpt-4o", factor=Decimal("0.9"))])
    before = price_versions(postgres, DAYS)
    import_own_prices(postgres, tmp_path)
    recost_days(postgres, DAYS, settings)
    after = price_versions(postgres, DAYS)
    # The first day knows no discount: with the newest prices, somebody else's request would cost less.
    assert after[earlier] == before[earlier]
    assert after[later] != before[later]
    assert after[later][1] == newest_version(postgres)


def test_models_with_prices_of_somebody_else_are_not_compared_and_counted(
    postgres: psycopg.Connection, settings: Settings, tmp_path: Path
) -> None:
    import_prices(postgres, [OwnPrice("openai", "*", factor=Decimal("0.9"))])
    import_own_prices(postgres, tmp_path)
    events = usage()
    store(postgres, settings, events)
    roll_up(postgres, settings)
    costs = compare_costs(postgres, MARK, events, settings)
    assert differences(costs) == {}
    assert costs.uncompared_requests == sum(one.event["provider"] == "openai" for one in events)


def test_without_the_own_prices_their_models_are_expected_to_have_none(
    postgres: psycopg.Connection, settings: Settings
) -> None:
    events = usage()
    store(postgres, settings, events)
    roll_up(postgres, settings)
    costs = compare_costs(postgres, MARK, events, settings)
    assert differences(costs) == {}
    [unpriced] = [result.stored for result in costs.results if result.measure == "unlisted_requests"]
    nameless = {UNPRICED, ALIASED, OWN_PRICED}
    expected = [one for one in events if (one.event["provider"], one.event["model"]) in nameless]
    assert unpriced == sum("error_type" not in one.event for one in expected)


def test_an_event_that_is_put_right_costs_what_is_right_and_its_note_has_the_reason(
    postgres: psycopg.Connection, settings: Settings, tmp_path: Path
) -> None:
    import_own_prices(postgres, tmp_path)
    events = usage()
    mistake = mistake_among(events, today(), settings)
    assert mistake is not None
    first = [mistake.wrong if one.event["event_id"] == mistake.event_id else one for one in events]
    right = [mistake.right if one.event["event_id"] == mistake.event_id else one for one in events]
    store(postgres, settings, first)
    roll_up(postgres, settings)
    assert differences(compare_costs(postgres, MARK, first, settings)) == {}
    before, after = mistake.costs
    assert differences(compare_costs(postgres, MARK, right, settings)) == dict.fromkeys(
        ("list_cost_usd", "cost_usd"), before - after
    )

    assert put_right(postgres, settings, mistake).outcome == "corrected"
    make_again(postgres, settings, [mistake.right])
    assert differences(compare_costs(postgres, MARK, right, settings)) == {}
    notes = postgres.execute("select event_id::text, reason from ops.corrections").fetchall()
    assert notes == [(mistake.event_id, mistake.reason)]
    late = "select distinct usage_date from ops.late_data where table_name = 'analytics.usage_daily'"
    assert postgres.execute(late).fetchall() == [(mistake.right.day(settings.timezone),)]


def test_what_there_is_to_see_is_told_with_its_numbers(
    postgres: psycopg.Connection, settings: Settings, sent: list[SentEvent]
) -> None:
    costs = compare_costs(postgres, MARK, sent, settings)
    by_model, unpriced, rise, correction = findings(costs, mistake_among(sent, today(), settings), today())
    [total] = [result.stored for result in costs.results if result.measure == "cost_usd"]
    assert by_model.startswith(f"Cost by model: {total:,.2f} USD in all; ")
    [count] = [result.stored for result in costs.results if result.measure == "unpriced_requests"]
    assert unpriced.startswith(f"Without a price: openai/gpt4o-mini, {count} requests")
    assert "The nearest name that has one is openai/gpt-4o-mini." in unpriced
    moved_on = today() - timedelta(days=13)
    assert f"On {moved_on} it moved from gpt-4o-mini to gpt-4o." in rise
    assert "480,000 input tokens" in correction
    assert "1.20 USD" in correction or "1.21 USD" in correction

    short = {key: amounts for key, amounts in costs.stored.items() if key[0] > days_ago(20)}
    told = findings(replace(costs, stored=short), None, today())
    assert not any(one.startswith("The cost rose") for one in told), "a part of the days before is not there"
