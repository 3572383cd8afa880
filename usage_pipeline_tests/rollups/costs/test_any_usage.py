"""Property: whatever usage of whatever model of the package comes, in any order, every window costs what calc_price says."""

import random
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import combinations
from typing import Any

import psycopg
import pytest
from genai_prices.data_snapshot import get_snapshot

from usage_pipeline.events.ingest.batches import EVENTS, ingest
from usage_pipeline.rollups import calendar
from usage_pipeline.rollups.windows import replace_window
from usage_pipeline.settings import Settings
from usage_pipeline_tests.rigs.events import as_items, is_error, list_cost
from usage_pipeline_tests.rigs.windows import event_at
from usage_pipeline_tests.rollups.costs.priced_rig import (
    COUNTED,
    DIMENSIONS,
    give_price,
    is_below,
    package_cost,
    rates,
    store_usages,
)

NOW = datetime(2025, 7, 20, 12, tzinfo=UTC)
AT = datetime(2025, 6, 11, 10, 30, tzinfo=UTC)
ZONE = Settings().timezone
HOURS = [calendar.hour_window(datetime(2025, 6, 11, hour, tzinfo=UTC), ZONE) for hour in (10, 11)]
DAY = calendar.day_window(date(2025, 6, 11), ZONE)
LONGER = [calendar.week_window(date(2025, 6, 9), ZONE), calendar.month_window(date(2025, 6, 1), ZONE)]
TIERS = (None, None, "batch", "priority")
COLUMNS = (
    "requests",
    "cost_usd",
    "list_cost_usd",
    "reported_cost_usd",
    "reported_requests",
    "unpriced_requests",
    "unlisted_requests",
)
EVENTS_BEFORE = frozenset(event_at(AT))
Event = dict[str, Any]
Row = tuple[Any, ...]


def some_models(chance: random.Random, count: int) -> list[tuple[str, str]]:
    """Models that the package finds by their own names and can price; those priced by other things than tokens too."""
    every = [(provider.id, model.id) for provider in get_snapshot().providers for model in provider.models]
    found: list[tuple[str, str]] = []
    while len(found) < count:
        provider, model = chance.choice(every)
        try:
            rates(provider, model, AT)
        except (LookupError, ValueError):
            continue
        found.append((provider, model))
    return found


def some_usage(chance: random.Random, priced: Sequence[str]) -> dict[str, int]:
    """Counts of some units, most of them priced ones. Each includes those below it, and overlaps are told."""
    own = {name: chance.randint(1, 400) for name in chance.sample(priced, chance.randint(0, min(4, len(priced))))}
    own |= {name: chance.randint(1, 400) for name in chance.sample(COUNTED, chance.choice((0, 0, 1)))}
    own |= {"input_tokens": chance.randint(0, 5_000), "output_tokens": chance.randint(0, 900)}
    whole = {
        name: own.get(name, 0) + sum(count for other, count in own.items() if is_below(other, name)) for name in COUNTED
    }
    joins = {
        frozenset({**DIMENSIONS[one], **DIMENSIONS[other]}.items())
        for one, other in combinations([name for name in COUNTED if whole[name]], 2)
    }
    told = {name: count for name, count in whole.items() if count or frozenset(DIMENSIONS[name].items()) in joins}
    return {**told, "input_tokens": whole["input_tokens"], "output_tokens": whole["output_tokens"]}


def some_event(chance: random.Random, models: Sequence[tuple[str, str]], priced: dict[str, list[str]]) -> Event:
    provider, model = chance.choice(models)
    event = event_at(
        AT + timedelta(minutes=chance.randint(0, 80)),
        user_id=f"user-{chance.randint(1, 3)}",
        provider=provider,
        model=model,
        status_code=chance.choice([200] * 8 + [429]),
    )
    if chance.random() < 0.1:
        # Not told, or told as a sum.
        counts = {"input_tokens": chance.choice((None, 900)), "output_tokens": None}
        event |= {**counts, "total_tokens": chance.choice((None, 900, 5_000))}
        event = {name: value for name, value in event.items() if value is not None}
    else:
        event |= {"usage": some_usage(chance, priced[model]), "service_tier": chance.choice(TIERS)}
    if chance.random() < 0.2:
        event["cost_usd"] = Decimal(chance.randint(0, 10**6)).scaleb(-chance.randint(3, 9))
    return event


def listed(event: Event) -> Decimal | None:
    """By the contracts: a failed request without output costs nothing, any other what the package says."""
    usage = event.get("usage")
    if usage is None:
        return list_cost(event)
    if is_error(event) and not usage["output_tokens"]:
        return Decimal(0)
    at = datetime.fromisoformat(event["event_time"])
    return package_cost(event["provider"], event["model"], at, usage, event["service_tier"])


def summed(events: Sequence[Event]) -> dict[tuple[str, str], Row]:
    by_model = defaultdict[tuple[str, str], list[Event]](list)
    for event in events:
        by_model[event["provider"], event["model"]].append(event)
    return {model: _row(rows) for model, rows in by_model.items()}


def _row(events: Sequence[Event]) -> Row:
    lists = [listed(event) for event in events]
    reports = [event.get("cost_usd") for event in events]
    effective = [report if report is not None else one for report, one in zip(reports, lists, strict=True)]
    return (
        len(events),
        *(_sum(costs) for costs in (effective, lists, reports)),
        len(events) - reports.count(None),
        effective.count(None),
        lists.count(None),
    )


def _sum(costs: Sequence[Decimal | None]) -> Decimal | None:
    known = [cost for cost in costs if cost is not None]
    return sum(known, Decimal(0)) if known else None


def assert_equal(postgres: psycopg.Connection, table: str, events: Sequence[Event], where: str = "") -> None:
    sums = ", ".join(f"sum({name})" for name in COLUMNS)
    rows = postgres.execute(f"select provider, model, {sums} from {table} {where} group by 1, 2").fetchall()
    found, expected = {row[:2]: row[2:] for row in rows}, summed(events)
    assert found.keys() == expected.keys()
    for model, row in expected.items():
        for name, one, other in zip(COLUMNS, found[model], row, strict=True):
            assert (one is None) == (other is None), (table, model, name, one, other)
            assert one is None or abs(one - other) <= Decimal("1e-12"), (table, model, name, one, other)


def is_in_hour(event: Event, hour: int) -> bool:
    return datetime.fromisoformat(event["event_time"]).hour == hour


@pytest.mark.parametrize("seed", range(4))
def test_every_window_costs_what_the_package_says_of_each_request(
    seed: int, settings: Settings, postgres: psycopg.Connection
) -> None:
    chance = random.Random(seed)
    models = some_models(chance, 8)
    priced = {}
    for provider, model in models:
        for tier in dict.fromkeys(TIERS):
            rate = give_price(postgres, provider, model, AT, tier)
        priced[model] = sorted(rate)
    events = [some_event(chance, models, priced) for _ in range(120)]
    early, late = events[:80], events[80:]
    for stored, come in ((early, early), (events, late)):
        store_usages(postgres, settings, NOW, come)
        if come is late:
            assert_equal(postgres, "analytics.usage_hourly_live", stored)
        again = [{name: value for name, value in one.items() if name in EVENTS_BEFORE} for one in come[:5]]
        report = ingest(postgres, EVENTS, as_items(*again), source="test", settings=settings, now=NOW)
        assert report.inserted == 0
        for window in (*HOURS, DAY, *LONGER):
            replace_window(postgres, window, settings=settings, now=NOW)
        for table in ("usage_hourly", "usage_daily", "usage_weekly", "usage_monthly", "usage_user_daily"):
            assert_equal(postgres, f"analytics.{table}", stored)
        for hour in HOURS:
            of_hour = [event for event in stored if is_in_hour(event, hour.start.hour)]
            assert_equal(postgres, "analytics.usage_hourly", of_hour, f"where hour_start = '{hour.start}'")
        assert_equal(postgres, "analytics.usage_hourly_live", stored)
        assert_equal(postgres, "reporting.usage_by_model", stored)
    assert replace_window(postgres, DAY, settings=settings, now=NOW).changed_rows == 0
