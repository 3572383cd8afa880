"""Random usage on its whole way: what clients send, as it is stored and completed, priced in PostgreSQL by looked-up models."""

import json
import random
from collections import defaultdict
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import psycopg
from genai_prices.types import ModelInfo, ModelPrice, Provider, TieredPrices

from usage_pipeline.events.ingest.batches import EVENTS, ingest
from usage_pipeline.events.pricing.lookups import add_lookups, current_version
from usage_pipeline.settings import Settings
from usage_pipeline_tests.events.pricing.random_usage import (
    FIRST,
    LAST,
    UNITS,
    Case,
    all_models,
    package_cost,
    random_case,
    told_difference,
)
from usage_pipeline_tests.rigs.events import event

CASES, SEED = 1_500, 20261129
# A partition for each day takes longer than its events. Some prices of the package begin on these days.
DAYS = [date(2025, 2, 8), date(2026, 10, 12), date(2026, 10, 14)]
DAYS += [(FIRST + (LAST - FIRST) * number / 8).date() for number in range(8)]


def kinds_of(provider: Provider, model: ModelInfo) -> set[str]:
    """The units that it has prices of, and what these depend on."""
    conditional = [] if isinstance(model.prices, ModelPrice) else model.prices
    each = [model.prices] if isinstance(model.prices, ModelPrice) else [one.prices for one in model.prices]
    values = [(unit.price_key, getattr(prices, unit.price_key)) for prices in each for unit in UNITS.values()]
    priced = {key for key, value in values if value is not None}
    thresholds = {"thresholds" for _, value in values if isinstance(value, TieredPrices)}
    one_second, two_seconds = (
        package_cost(Case(provider, model, LAST, "", {"audio_seconds": count, "input_audio_seconds": count}))
        for count in (1, 2)
    )
    least = {"least charge"} if one_second and one_second == two_seconds else set()
    return priced | thresholds | least | {type(one.constraint).__name__ for one in conditional}


def some_cases() -> list[Case]:
    """Of models that the package finds by their own names; all counts are told. Each kind of price comes as often."""
    chance = random.Random(SEED)
    by_kind = defaultdict[str, list[tuple[Provider, ModelInfo]]](list)
    for provider, model in all_models():
        if provider.find_model(model.id) is model:
            for kind in kinds_of(provider, model):
                by_kind[kind].append((provider, model))
    kinds = sorted(by_kind)
    found: list[Case] = []
    while len(found) < CASES:
        kind = kinds[len(found) % len(kinds)]
        case = random_case(chance, *chance.choice(by_kind[kind]))
        if None not in case.usage.values():
            at = datetime.combine(chance.choice(DAYS), case.at.timetz())
            usage = {"input_tokens": 0, "output_tokens": 0, **case.usage}
            found.append(Case(case.provider, case.model, at, case.tier, usage))
    return found


def as_sent(number: int, case: Case) -> dict[str, Any]:
    counts = {name: float(count) if isinstance(count, Decimal) else count for name, count in case.usage.items()}
    return event(
        event_id=str(UUID(int=number)),
        event_time=case.at.isoformat(),
        user_id=str(number),
        provider=case.provider.id,
        model=case.model.id,
        service_tier=case.tier,
        input_tokens=...,
        output_tokens=...,
        usage=counts,
    )


def test_stored_usage_costs_what_the_package_says(postgres: psycopg.Connection, settings: Settings) -> None:
    settings = settings.model_copy(update={"usage_start_date": FIRST.date(), "retention_days": 3_650})
    cases = some_cases()
    for first in range(0, CASES, 500):
        items = [
            json.dumps(as_sent(number, case)).encode()
            for number, case in enumerate(cases[first : first + 500], start=first)
        ]
        report = ingest(postgres, EVENTS, items, source="test", settings=settings, now=LAST + timedelta(days=1))
        assert (report.inserted, report.rejected) == (len(items), ()), report
    version = current_version(postgres)
    add_lookups(postgres, version, {(case.provider.id, case.model.id, case.tier) for case in cases})
    query = "select user_id, list_cost_usd from analytics.priced_events(%s, %s, %s)"
    costs = dict(postgres.execute(query, (FIRST, LAST, version)).fetchall())
    assert len(costs) == CASES
    assert sum(cost is not None and cost > 0 for cost in costs.values()) > CASES * 0.8
    differing = [told_difference(case, costs[str(number)]) for number, case in enumerate(cases)]
    assert [one for one in differing if one] == []
