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
PARTS = ("volumeUsd", "mixUsd", "tokensPerRequestUsd", "cacheUsd", "priceUsd", "coverageUsd")
MONTH = {"from": "2025-06-01", "to": "2025-06-30", "compare": "month_before"}
# A million tokens in and 100,000 out, of which so many are cached.
USAGE = {"input_tokens": 1_000_000, "output_tokens": 100_000}
CACHED = {**USAGE, "cache_read_tokens": 500_000}
# A model without a list price: its cost is known of those requests alone whose sender told it.
UNKNOWN: dict[str, Any] = {"usage": USAGE, "model": "no-list-has-it"}
KNOWN: dict[str, Any] = {**UNKNOWN, "cost_usd": Decimal("1.5")}
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
    "volume, half of it known": ([UNKNOWN, KNOWN], [UNKNOWN, KNOWN] * 3),
    "more of it known": ([UNKNOWN] * 3 + [KNOWN] * 3, [KNOWN] * 6),
    "less of it known": ([KNOWN] * 6, [UNKNOWN] * 4 + [KNOWN] * 2),
    "known at last": ([UNKNOWN] * 3, [KNOWN] * 3),
    "known no longer": ([KNOWN] * 3, [UNKNOWN] * 3),
    "one model known at last": ([{"usage": USAGE}, UNKNOWN], [{"usage": USAGE}, KNOWN]),
    "known by another model": ([UNKNOWN], [{"usage": USAGE}]),
    # Requests without a known cost are none that cost nothing.
    "an unknown model more": (
        [{"usage": USAGE}, KNOWN],
        [{"usage": USAGE}, KNOWN] * 2 + [{**UNKNOWN, "model": "other"}] * 9,
    ),
}
# No cost is known of either side.
NEVER_KNOWN = {"never known": ([UNKNOWN] * 2, [UNKNOWN] * 5), "new and not known": ([], [UNKNOWN])}
PART_OF = {
    "volume": "volumeUsd",
    "mix": "mixUsd",
    "tokens": "tokensPerRequestUsd",
    "cache": "cacheUsd",
    "price": "priceUsd",
    "new": "volumeUsd",
    "gone": "volumeUsd",
    "volume, half of it known": "volumeUsd",
    "more of it known": "coverageUsd",
    "less of it known": "coverageUsd",
    "known at last": "coverageUsd",
    "known no longer": "coverageUsd",
    "one model known at last": "coverageUsd",
    "known by another model": "coverageUsd",
    "an unknown model more": "volumeUsd",
}


@pytest.fixture(scope="module")
def explored(servers, databases) -> Iterator[Explored]:  # type: ignore[no-untyped-def]  # fixtures of the session
    name = databases.take()
    url = servers.postgres.url(name)
    settings: Settings = load_settings(database_url=url, redis_url=servers.redis_url, retention_days=3_000)
    numbers = itertools.count()
    events = [
        event_at(at + timedelta(seconds=next(numbers)), team=team, **{"latency_ms": 1, **members})
        for team, sides in {**ONE_WAY, **NEVER_KNOWN}.items()
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


def money(value: str | None) -> Decimal | None:
    return None if value is None else Decimal(value)


def assert_adds_up(change: dict[str, Any]) -> None:
    assert set(change["parts"]) == set(PARTS)
    total = sum(Decimal(part) for part in change["parts"].values())
    assert total == Decimal(change["changeUsd"])
    assert total == Decimal(change["costUsd"] or 0) - Decimal(change["previousCostUsd"] or 0)


def test_parts_add_up_and_what_changed_alone_is_all_of_it(explored: Explored) -> None:
    document = changes(explored)
    assert document["previous"] == {"from": "2025-05-01", "to": "2025-05-31"}
    found = {item["team"]: item for item in document["items"]}
    assert set(found) == {*ONE_WAY, *NEVER_KNOWN}
    known = [item for team, item in found.items() if team in ONE_WAY]
    for item in known:
        team = item["team"]
        assert_adds_up(item)
        assert Decimal(item["changeUsd"]) != 0
        assert {name for name in PARTS if Decimal(item["parts"][name])} == {PART_OF[team]}, team
    assert_adds_up(document["total"])
    for name in ("previousCostUsd", "costUsd", "changeUsd"):
        assert Decimal(document["total"][name]) == sum(Decimal(item[name] or 0) for item in known)
    sizes = [abs(Decimal(item["changeUsd"])) for item in document["items"] if item["changeUsd"] is not None]
    assert sizes == sorted(sizes, reverse=True)
    assert [item["team"] for item in document["items"]][-2:] == sorted(NEVER_KNOWN)


def test_what_is_not_known_is_null_and_counted(explored: Explored) -> None:
    found = {item["team"]: item for item in changes(explored)["items"]}

    def shown(team: str) -> tuple[Any, ...]:
        item = found[team]
        costs = (money(item[name]) for name in ("previousCostUsd", "costUsd", "changeUsd"))
        return *costs, item["previousUnpricedRequests"], item["unpricedRequests"]

    one = KNOWN["cost_usd"]
    assert shown("more of it known") == (3 * one, 6 * one, 3 * one, 3, 0)
    assert shown("known at last") == (None, 3 * one, 3 * one, 3, 0)
    assert shown("known no longer") == (3 * one, None, -3 * one, 0, 3)
    assert shown("never known") == (None, None, None, 2, 5)
    # What made no requests cost nothing, which is known.
    assert shown("new and not known") == (0, None, None, 0, 1)
    for team in NEVER_KNOWN:
        assert found[team]["parts"] == dict.fromkeys(PARTS)
    alone = changes(explored, **{"filter.team": "never known"})["total"]
    assert alone == {name: value for name, value in found["never known"].items() if name != "team"}


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
        "price_usd, coverage_usd, previous_unpriced_requests, unpriced_requests "
        "from reporting.cost_changes where month_start = %s",
        (date(2025, 6, 1),),
    ).fetchall()
    expected = {
        item["team"]: [
            *(money(item[name]) for name in ("previousCostUsd", "costUsd", "changeUsd")),
            *(money(item["parts"][name]) for name in PARTS),
            *(item[name] for name in ("previousUnpricedRequests", "unpricedRequests")),
        ]
        for item in changes(explored)["items"]
    }
    assert {row[0]: list(row[1:]) for row in rows} == expected


def test_decimal_texts_have_no_needless_zeros(explored: Explored) -> None:
    document = changes(explored)
    for change in (*document["items"], document["total"]):
        for text in (*change["parts"].values(), *(change[f"{name}Usd"] for name in ("previousCost", "cost", "change"))):
            assert text is None or "." not in text or not text.endswith("0"), change


COUNT = st.integers(0, 10**7)


@st.composite
def sides(draw: st.DrawFn) -> tuple[list[int], list[int]]:
    """A model's counts, and those of its group: requests, those whose cost is known, and those of them that are compared."""
    requests = draw(COUNT)
    priced = draw(st.integers(0, requests))
    others = sorted(draw(st.lists(COUNT, min_size=2, max_size=2)))
    cost = draw(COUNT) if priced else 0
    model = [requests, priced, cost, *draw(st.lists(COUNT, min_size=9, max_size=9))]
    return model, [requests + others[1], priced + others[0]]


PRICES = st.none() | st.lists(st.decimals(-20, 20, places=6), min_size=9, max_size=9)


def split(explored: Explored, before: Any, after: Any, prices: Any) -> tuple[Decimal, ...]:
    """The parts of a model in a group of itself and models that did not change."""
    [parts] = explored.postgres.execute(
        "select part.* from (select %s::numeric[] as before, %s::numeric[] as after, %s::numeric[] as group_before, "
        "%s::numeric[] as group_after) as given cross join lateral analytics.compared_requests(before, after) as compared "
        "cross join lateral analytics.cost_change(group_before || compared[1], group_after || compared[2], before, after, "
        "%s::numeric[]) as part",
        (before[0], after[0], before[1], after[1], prices),
    ).fetchall()
    return parts


@given(before=sides(), after=sides(), prices=PRICES)
@hypothesis_settings(max_examples=300)
def test_the_parts_of_any_model_add_up(explored: Explored, before: Any, after: Any, prices: Any) -> None:
    assert sum(split(explored, before, after, prices)) == after[0][2] - before[0][2]


@given(
    requests=st.integers(1, 10**6),
    shares=st.lists(st.fractions(0, 1), min_size=2, max_size=2),
    usd=st.integers(0, 1_000),
    tokens=st.lists(st.integers(0, 10**5), min_size=9, max_size=9),
    prices=PRICES,
)
@hypothesis_settings(max_examples=300)
def test_identical_requests_whose_cost_became_known_or_unknown_change_nothing_else(
    explored: Explored, requests: int, shares: list[Any], usd: int, tokens: list[int], prices: Any
) -> None:
    priced = [int(requests * share) for share in shares]
    before, after = (
        ([requests, known, known * usd, *(requests * each for each in tokens)], [requests, known]) for known in priced
    )
    *others, coverage = split(explored, before, after, prices)
    assert others == [0] * 5
    assert coverage == (priced[1] - priced[0]) * usd
