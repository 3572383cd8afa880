"""Usage over HTTP: pages that add up to what is stored, filters, ranges, and one key or token with what waits in Redis."""

import itertools
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any
from urllib.parse import quote

import httpx
import psycopg
import pytest
from usage_recorder.recorder import Recorder

from usage_pipeline.drain.rounds import drain_once
from usage_pipeline.settings import load_settings
from usage_pipeline_tests.rigs.clock import days_ago, today
from usage_pipeline_tests.rigs.service import Shared, expect_problem, serving

# What an id may hold (contracts §2), sorted as PostgreSQL does here.
IDS = [
    "Ärger",
    "a:b",
    "a/b",
    "a b",
    "{x}",
    "=1+1",
    "-2",
    "'; drop table usage.api_keys; --",
    "日本",
    "k" * 200,
    "daily",
    "one",
    "a%2Fb",
]
# By day and team, of the models that have any: each of the three costs is another one.
COSTS_AND_UNITS = ("0.000000125", "0.0000001", "0.00000008", '{"audio_seconds": 0.5, "web_searches": 2}')
NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


def all_days() -> list[date]:
    """Those that have rows, the oldest first."""
    return [days_ago(age) for age in range(40, -1, -1)]


@pytest.fixture(scope="module", autouse=True)
def _usage(shared: Shared) -> None:
    """Some of everything: each number tells its row."""
    with shared.postgres.cursor() as cursor:
        for number, known_id in enumerate(IDS):
            cursor.execute(
                "insert into usage.api_keys values (%s, %s, %s, %s, 7, 3, %s)",
                (known_id, 10 + number, 9 + number, 1, NOON),
            )
            cursor.execute(
                "insert into usage.provider_usage (api_key_id, provider, user_id, upload_count) values (%s, %s, %s, %s)",
                (known_id, f"p{number % 2}", f"u{number % 3}", number),
            )
            cursor.execute(
                "insert into usage.api_access_tokens (token_id, usage_count) values (%s, %s)", (known_id, number)
            )
            for age, day in enumerate(all_days()):
                cursor.execute(
                    "insert into usage.api_key_daily values (%s, %s, %s, %s, 0, 7, 3, %s)",
                    (day, known_id, age, age, NOON),
                )
                cursor.execute(
                    "insert into usage.provider_daily values (%s, %s, %s, %s, 5)",
                    (day, known_id, f"p{number % 2}", age),
                )
                cursor.execute("insert into usage.token_daily values (%s, %s, %s)", (day, known_id, age))
        for merchant, metric, day in itertools.product(("m1", "m2"), ("orders", "refunds"), all_days()):
            cursor.execute("insert into usage.merchant_usage values (%s, %s, %s, 2)", (merchant, day, metric))
        for team, model, day in itertools.product(("search", "ads"), ("gpt-4o", "o3", "claude"), all_days()):
            cursor.execute(
                "insert into analytics.usage_daily (usage_date, team, service, provider, model, requests, errors, input_tokens,"
                " output_tokens, total_tokens, distinct_users, cost_usd, unpriced_requests, list_cost_usd, reported_cost_usd,"
                " other_units) values (%s, %s, 'chat', 'p', %s, 3, 1, 20, 10, 30, 1, %s, 0, %s, %s, %s)",
                (day, team, model, *((None,) * 4 if model == "o3" else COSTS_AND_UNITS)),
            )


def pages(client: httpx.Client, path: str) -> Iterator[dict[str, Any]]:
    """All pages, by the links of each."""
    following: str | None = path
    for _ in range(200):
        if following is None:
            return
        response = client.get(following)
        assert response.status_code == 200, response.text
        yield (body := response.json())
        following = body["next"]
        assert response.links.get("next", {}).get("url") == following
    raise AssertionError("the pages do not end")


def items(client: httpx.Client, path: str) -> list[dict[str, Any]]:
    return [item for page in pages(client, path) for item in page["items"]]


def rows(postgres: psycopg.Connection, query: str) -> list[tuple[Any, ...]]:
    return postgres.execute(query).fetchall()


KEYS = {
    "api-keys": ("apiKeyId",),
    "tokens": ("tokenId",),
    "providers": ("apiKeyId", "provider"),
    "merchants": ("merchantId", "metricType"),
    "models": ("provider", "model"),
}


@pytest.mark.parametrize("resource", KEYS)
@pytest.mark.parametrize("limit", [1, 3, 1000])
def test_pages_of_any_size_are_the_same_rows_each_once(shared: Shared, resource: str, limit: int) -> None:
    whole = items(shared.client, f"/api/usage/{resource}?limit=1000")
    assert items(shared.client, f"/api/usage/{resource}?limit={limit}") == whole
    keys = [tuple(item[name] for name in KEYS[resource]) for item in whole]
    assert len(set(keys)) == len(keys) >= 3


@pytest.mark.parametrize("resource", KEYS)
def test_days_come_in_pages_with_both_ends_included(shared: Shared, resource: str) -> None:
    path = f"/api/usage/{resource}/daily?from={all_days()[3]}&to={all_days()[6]}"
    whole = items(shared.client, f"{path}&limit=1000")
    assert items(shared.client, f"{path}&limit=7") == whole
    keys = [(item["usageDate"], *(item[name] for name in KEYS[resource])) for item in whole]
    assert len(set(keys)) == len(keys)
    days = [item["usageDate"] for item in whole]
    assert days == sorted(days)
    assert set(days) == {str(day) for day in all_days()[3:7]}
    per_day = {"api-keys": len(IDS), "tokens": len(IDS), "providers": len(IDS), "merchants": 4, "models": 3}[resource]
    assert len(whole) == 4 * per_day


def test_totals_are_what_is_stored(shared: Shared) -> None:
    found = items(shared.client, "/api/usage/api-keys?limit=1000")
    stored = rows(
        shared.postgres, "select api_key_id, total_requests, failed_requests from usage.api_keys order by api_key_id"
    )
    assert [(one["apiKeyId"], one["totalRequests"], one["failedRequests"]) for one in found] == stored
    assert found[0]["lastUsedAt"] == "2026-01-02T12:00:00Z"
    merchants = items(shared.client, "/api/usage/merchants")
    assert {(one["merchantId"], one["metricType"], one["metricValue"]) for one in merchants} == {
        (merchant, metric, 2 * len(all_days())) for merchant in ("m1", "m2") for metric in ("orders", "refunds")
    }
    by_model = {one["model"]: one for one in items(shared.client, "/api/usage/models")}
    assert by_model["gpt-4o"]["costUsd"] == "0.000010250"
    assert by_model["o3"]["costUsd"] is None
    assert (by_model["gpt-4o"]["listCostUsd"], by_model["gpt-4o"]["reportedCostUsd"]) == ("0.0000082", "0.00000656")
    assert by_model["gpt-4o"]["otherUnits"] == {"audio_seconds": 41, "web_searches": 164}
    assert by_model["o3"]["otherUnits"] == {}
    assert by_model["claude"]["totalTokens"] == 30 * 2 * len(all_days())


def test_tokens_show_no_secret_and_no_prefix(shared: Shared) -> None:
    whole = shared.client.get("/api/usage/tokens?limit=1000").text
    assert shared.token[:16] not in whole
    assert "hash" not in whole.lower()


@pytest.mark.parametrize(
    ("path", "column", "value", "count"),
    [
        ("api-keys?api_key_id=a:b", "apiKeyId", "a:b", 1),
        ("api-keys?api_key_id=nobody", "apiKeyId", "", 0),
        ("tokens?token_id=%E6%97%A5%E6%9C%AC", "tokenId", "日本", 1),
        ("providers?provider=p1", "provider", "p1", 6),
        ("providers?user_id=u2", "userId", "u2", 4),
        ("providers/daily?user_id=u2&provider=p0", "userId", "u2", 60),
        ("merchants?merchant_id=m1", "merchantId", "m1", 2),
        ("merchants/daily?metric_type=orders&limit=1000", "metricType", "orders", 60),
        ("models?model=o3&team=ads", "model", "o3", 1),
        ("models/daily?model=o3&service=chat", "model", "o3", 30),
        ("models?team=nobody", "model", "", 0),
    ],
)
def test_filters(shared: Shared, path: str, column: str, value: str, count: int) -> None:
    found = items(shared.client, f"/api/usage/{path}")
    assert [one[column] for one in found] == [value] * count


def test_a_filter_by_team_counts_that_team_only(shared: Shared) -> None:
    [both] = items(shared.client, "/api/usage/models?model=o3")
    [one] = items(shared.client, "/api/usage/models?model=o3&team=ads")
    assert both["requests"] == 2 * one["requests"] == 6 * len(all_days())


def test_a_filter_stays_over_the_pages(shared: Shared) -> None:
    assert len(items(shared.client, "/api/usage/providers?provider=p1&limit=2")) == 6


def test_without_a_range_it_is_the_last_thirty_days(shared: Shared) -> None:
    page = shared.client.get("/api/usage/models/daily?limit=1000").json()
    assert (page["from"], page["to"]) == (str(days_ago(29)), str(today()))
    assert {item["usageDate"] for item in page["items"]} == {str(day) for day in all_days()[-30:]}


def test_today_is_the_one_of_the_time_zone(shared: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
    from zoneinfo import ZoneInfo

    from usage_pipeline.rollups import daily

    class AtFour(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> "datetime":
            return datetime(2026, 3, 1, 4, tzinfo=UTC).astimezone(tz)

    monkeypatch.setattr(daily, "datetime", AtFour)
    assert daily.current_day(ZoneInfo("UTC")) == date(2026, 3, 1)
    assert daily.current_day(ZoneInfo("America/New_York")) == date(2026, 2, 28)


def test_the_summary_has_every_day_once(shared: Shared) -> None:
    found = shared.client.get(f"/api/usage/summary?from={all_days()[0] - timedelta(days=1)}&to={all_days()[2]}").json()
    assert [one["usageDate"] for one in found] == [str(all_days()[0] - timedelta(days=1)), *map(str, all_days()[:3])]
    assert found[0]["modelRequests"] == found[0]["apiKeyRequests"] == 0
    assert found[0]["costUsd"] is None
    assert found[3]["apiKeyRequests"] == 2 * len(IDS)
    assert found[3]["modelRequests"] == 3 * 6
    assert found[3]["costUsd"] == "0.000000500"
    assert (found[3]["listCostUsd"], found[3]["reportedCostUsd"]) == ("0.0000004", "0.00000032")
    assert found[3]["otherUnits"] == {"audio_seconds": 2, "web_searches": 8}
    assert found[0]["otherUnits"] == {}


def test_a_range_of_366_days_is_taken(shared: Shared) -> None:
    first = days_ago(365)
    assert shared.client.get(f"/api/usage/api-keys/daily?from={first}&to={today()}").status_code == 200


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("daily?from=2026-02-01&to=2026-01-31", "from: expected a day not after to (2026-01-31), came 2026-02-01"),
        ("daily?from=2025-01-01&to=2026-01-02", "from and to: expected at most 366 days, both ends included, came 367"),
        ("daily?from=yesterday", "from: expected a date YYYY-MM-DD of the years 1970 to 2999, came 'yesterday'"),
        ("daily?to=2026-02-30", "to: expected a date YYYY-MM-DD of the years 1970 to 2999, came '2026-02-30'"),
        ("daily?to=0001-01-01", "to: expected a date YYYY-MM-DD of the years 1970 to 2999, came '0001-01-01'"),
        ("daily?to=20260101", "to: expected a date YYYY-MM-DD of the years 1970 to 2999, came '20260101'"),
        ("daily?from=", "from: expected a date YYYY-MM-DD of the years 1970 to 2999, came ''"),
        ("?limit=0", "limit: expected 1 to 1000, came '0'"),
        ("?limit=1001", "limit: expected 1 to 1000, came '1001'"),
        ("?limit=%D9%A1", "limit: expected 1 to 1000, came '١'"),
        ("?format=xml", "format: expected one of json, csv, parquet, came 'xml'"),
        ("?format=csv&limit=5", "limit: expected it with format=json only, since csv has all rows, came both"),
        ("?from=2026-01-01", "parameter: expected one of after, api_key_id, format, limit, came 'from'"),
        ("?limit=1&limit=2", "limit: expected it once, came it twice or more"),
        ("?api_key_id=", "api_key_id: expected 1 to 200 characters, came 0"),
        ("?api_key_id=a%00b", "api_key_id: expected no NUL character, came one at position 1"),
        ("?after=x", "after: expected the cursor that a page of this route gave, came 'x'"),
        ("?after=WyJ1c2FnZV90b2tlbnMiLCAiYSJd", "after: expected the cursor that a page of this route gave"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told(shared: Shared, query: str, expected: str) -> None:
    separator = "/" if query.startswith("daily") else ""
    detail = expect_problem(shared.client.get(f"/api/usage/api-keys{separator}{query}"), 422, "invalid-parameter")
    assert detail.startswith(expected), detail


@pytest.mark.parametrize("known_id", IDS)
def test_every_id_can_be_asked_for(shared: Shared, known_id: str) -> None:
    expected = 10 + IDS.index(known_id)
    found = shared.client.get("/api/usage/api-keys/one", params={"id": known_id}).json()
    assert found["apiKeyId"] == known_id
    assert found["stored"]["totalRequests"] == expected
    assert found["total"] == found["stored"]
    assert set(found["pending"].values()) == {0}
    if known_id not in ("daily", "one"):
        assert shared.client.get(f"/api/usage/api-keys/{quote(known_id, safe='')}").json() == found


def test_stored_and_pending_add_up_before_and_after_a_drain(shared: Shared) -> None:
    with_recorder = Recorder.connect(shared.settings.redis_dsn.get_secret_value())
    for _ in range(3):
        with_recorder.record_api_key("a/b", success=False, file_size=5)
        with_recorder.record_api_key("new", success=True)
    with_recorder.close()
    path = "/api/usage/api-keys/a/b"
    before = shared.client.get(path).json()
    assert (
        before["stored"]["totalRequests"],
        before["pending"]["totalRequests"],
        before["total"]["totalRequests"],
    ) == (12, 3, 15)
    assert before["total"]["totalFileSize"] == 22
    new = shared.client.get("/api/usage/api-keys/new").json()
    assert (new["stored"]["totalRequests"], new["total"]["totalRequests"], new["lastUsedAt"]) == (0, 3, None)
    drain_once(shared.settings, ["api_key"])
    after = shared.client.get(path).json()
    assert (after["stored"]["totalRequests"], after["pending"]["totalRequests"]) == (15, 0)
    assert after["total"] == before["total"]
    shared.postgres.execute("delete from usage.api_keys where api_key_id = 'new'")


def test_pending_uses_of_a_token_are_those_of_all_its_instances_and_of_no_other(shared: Shared) -> None:
    recorder = Recorder.connect(shared.settings.redis_dsn.get_secret_value())
    recorder.record_token("a", "b:host-3:80", count=2)
    recorder.record_token("a:b", "host-1:80", count=16)  # another key of the same beginning
    recorder.record_token("a:b", "host-2:80", count=32)
    recorder.record_token("a*", "host-2:80", count=64)
    recorder.close()
    found = shared.client.get("/api/usage/tokens/one", params={"id": "a:b"}).json()
    assert found["pending"] == {"usageCount": 48}
    assert shared.client.get("/api/usage/tokens/a*").json()["total"] == {"usageCount": 64}
    drain_once(shared.settings, ["token"])
    after = shared.client.get("/api/usage/tokens/one", params={"id": "a:b"}).json()
    assert after["pending"] == {"usageCount": 0}
    assert after["total"] == found["total"] == {"usageCount": found["stored"]["usageCount"] + 48}


@pytest.mark.parametrize("resource", ["api-keys", "tokens"])
def test_an_id_without_any_usage_is_404(shared: Shared, resource: str) -> None:
    detail = expect_problem(shared.client.get(f"/api/usage/{resource}/nobody"), 404, "not-found")
    assert detail.endswith("came one without any usage")


def test_without_redis_what_is_stored_is_answered(shared: Shared) -> None:
    settings = load_settings(
        database_url=shared.settings.database_url.get_secret_value(), redis_url="redis://127.0.0.1:1"
    )
    with serving(settings) as service:
        client = service.with_token(shared.token)
        found = client.get("/api/usage/api-keys/a:b").json()
        assert found["stored"]["totalRequests"] == 11
        assert (found["pending"], found["total"]) == (None, None)
        expect_problem(client.get("/api/usage/api-keys/nobody"), 503, "unavailable")
        expect_problem(client.get("/api/usage/tokens/nobody"), 503, "unavailable")
        assert len(items(client, "/api/usage/api-keys?limit=1000")) == len(IDS)
