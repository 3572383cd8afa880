"""Why a cost changed: parts that add up, and each part alone where only one thing changed."""

import itertools
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from usage_pipeline.bindings import Bounds
from usage_pipeline.settings import Settings, load_settings
from usage_pipeline_tests.api.explore.conftest import Explored
from usage_pipeline_tests.rigs.service import serving
from usage_pipeline_tests.rigs.windows import event_at
from usage_pipeline_tests.rollups.costs.priced_rig import store_usages
from usage_pipeline_tests.rollups.trace_rig import roll, windows_of

NOW = datetime(2025, 8, 1, 12, tzinfo=UTC)
BEFORE, AFTER = datetime(2025, 5, 10, 9, tzinfo=UTC), datetime(2025, 6, 10, 9, tzinfo=UTC)
PARTS = ("volumeUsd", "mixUsd", "tokensPerRequestUsd", "cacheUsd", "priceUsd")
MONTH = {"from": "2025-06-01", "to": "2025-06-30", "compare": "month_before"}
# A million tokens in and 100,000 out, of which so many are cached.
USAGE = {"input_tokens": 1_000_000, "output_tokens": 100_000}
CACHED = {**USAGE, "cache_read_tokens": 500_000}
# Team -> (requests before, requests after): each changes in one way.
ONE_WAY: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]]]] = {
    "volume": ([{"usage": USAGE}] * 2, [{"usage": USAGE}] * 5),
    "mix": (
        [{"usage": USAGE}, {"usage": USAGE}, {"usage": USAGE, "model": "gpt-4o-mini"}],
        [{"usage": USAGE}, {"usage": USAGE, "model": "gpt-4o-mini"}, {"usage": USAGE, "model": "o3"}],
    ),
    "tokens": (
        [{"usage": CACHED}],
        [{"usage": {name: 2 * count for name, count in CACHED.items()}}],
    ),
    "cache": ([{"usage": USAGE}], [{"usage": CACHED}]),
    "price": ([{"usage": USAGE}], [{"usage": USAGE, "cost_usd": Decimal("1.25")}]),
    "new": ([], [{"usage": USAGE}]),
    "gone": ([{"usage": USAGE}], []),
}
PART_OF = {
    "volume": "volumeUsd",
    "mix": "mixUsd",
    "tokens": "tokensPerRequestUsd",
    "cache": "cacheUsd",
    "price": "priceUsd",
    "new": "volumeUsd",
    "gone": "volumeUsd",
}


@pytest.fixture(scope="module")
def explored(servers, databases) -> Iterator[Explored]:  # type: ignore[no-untyped-def]  # fixtures of the session
    name = databases.take()
    url = servers.postgres.url(name)
    settings: Settings = load_settings(database_url=url, redis_url=servers.redis_url, retention_days=3_000)
    numbers = itertools.count()
    events = [
        event_at(at + timedelta(seconds=next(numbers)), team=team, **{"latency_ms": 1, **members})
        for team, sides in ONE_WAY.items()
        for at, side in zip((BEFORE, AFTER), sides, strict=True)
        for members in side
    ]
    for event in events:
        event |= {name: event["usage"][name] for name in USAGE}
    with psycopg.connect(url, autocommit=True) as postgres:
        store_usages(postgres, settings, NOW, events)
        roll(postgres, windows_of(events, settings), settings, NOW)
        with serving(settings) as service:
            yield Explored(service.client.base_url, postgres, settings, events)
    databases.drop(name)


def changes(explored: Explored, *scopes: str, bounds: Bounds | None = None, **parameters: str) -> dict[str, Any]:
    answer = explored.client(*(scopes or ("read",)), bounds=bounds).get(
        "/api/usage/changes", params={**MONTH, **parameters}
    )
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    return document


def assert_adds_up(change: dict[str, Any]) -> None:
    assert set(change["parts"]) == set(PARTS)
    total = sum(Decimal(part) for part in change["parts"].values())
    assert total == Decimal(change["changeUsd"]) == Decimal(change["costUsd"]) - Decimal(change["previousCostUsd"])


def test_parts_add_up_and_what_changed_alone_is_all_of_it(explored: Explored) -> None:
    document = changes(explored)
    assert document["previous"] == {"from": "2025-05-01", "to": "2025-05-31"}
    found = {item["team"]: item for item in document["items"]}
    assert set(found) == set(ONE_WAY)
    for team, item in found.items():
        assert_adds_up(item)
        assert Decimal(item["changeUsd"]) != 0
        assert {name for name in PARTS if Decimal(item["parts"][name])} == {PART_OF[team]}, team
    assert_adds_up(document["total"])
    for name in ("previousCostUsd", "costUsd", "changeUsd"):
        assert Decimal(document["total"][name]) == sum(Decimal(item[name]) for item in found.values())
    sizes = [abs(Decimal(item["changeUsd"])) for item in document["items"]]
    assert sizes == sorted(sizes, reverse=True)


def test_other_groups_filters_and_bounds(explored: Explored) -> None:
    for by in ("service", "provider"):
        [item] = changes(explored, by=by, **{"filter.team": "volume"})["items"]
        assert Decimal(item["parts"]["volumeUsd"]) == Decimal(item["changeUsd"])
    bound = changes(explored, bounds=Bounds(teams=("cache", "mix")))
    assert {item["team"] for item in bound["items"]} == {"cache", "mix"}
    of_user = changes(explored, bounds=Bounds(users=("user-1",)))
    assert of_user["total"] == changes(explored)["total"]
    nobody = changes(explored, **{"filter.team": "nobody"})
    assert nobody["items"] == []
    assert Decimal(nobody["total"]["changeUsd"]) == 0


def test_the_view_says_the_same_of_months(explored: Explored) -> None:
    rows = explored.postgres.execute(
        "select team, previous_cost_usd, cost_usd, change_usd, volume_usd, mix_usd, tokens_per_request_usd, cache_usd, "
        "price_usd from reporting.cost_changes where month_start = %s",
        (date(2025, 6, 1),),
    ).fetchall()
    expected = {
        item["team"]: [
            *(Decimal(item[name]) for name in ("previousCostUsd", "costUsd", "changeUsd")),
            *(Decimal(item["parts"][name]) for name in PARTS),
        ]
        for item in changes(explored)["items"]
    }
    assert {row[0]: list(row[1:]) for row in rows} == expected


COUNT = st.integers(0, 10**7)


@given(
    before=st.lists(COUNT, min_size=11, max_size=11),
    after=st.lists(COUNT, min_size=11, max_size=11),
    others=st.tuples(COUNT, COUNT),
    prices=st.none() | st.lists(st.decimals(-20, 20, places=6), min_size=9, max_size=9),
)
@hypothesis_settings(max_examples=200)
def test_the_parts_of_any_model_add_up(
    explored: Explored, before: list[int], after: list[int], others: tuple[int, int], prices: list[Decimal] | None
) -> None:
    [parts] = explored.postgres.execute(
        "select * from analytics.cost_change(%s, %s, %s::numeric[], %s::numeric[], %s::numeric[])",
        (before[0] + others[0], after[0] + others[1], before, after, prices),
    ).fetchall()
    assert sum(parts) == after[1] - before[1]
