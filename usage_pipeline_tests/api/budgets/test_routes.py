"""Budgets over HTTP: numbers as exploring gives them, and only to those who may see them."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import httpx
import psycopg
import pytest

from usage_pipeline.bindings import Bounds
from usage_pipeline.budgets.budget import budget_of
from usage_pipeline.budgets.store import set_budget
from usage_pipeline.rollups.calendar import day_window
from usage_pipeline.rollups.windows import replace_window
from usage_pipeline.settings import load_settings
from usage_pipeline_tests.rigs.service import expect_problem, new_token, serving
from usage_pipeline_tests.rigs.windows import event_at, store_events

SCOPES = {
    "all": "all",
    "a": "team=a",
    "b": "team=b",
    "chat": "service=chat",
    "me": "user=me",
    "you": "user=you",
    "model": "model=gpt-4o",
    "key": "api_key=k",
}


@dataclass(frozen=True)
class Budgets:
    base_url: httpx.URL
    postgres: psycopg.Connection

    def client(self, *scopes: str, bounds: Bounds | None = None) -> httpx.Client:
        headers = {"Authorization": f"Bearer {new_token(self.postgres, *scopes, bounds=bounds)}"}
        return httpx.Client(base_url=self.base_url, headers=headers, timeout=60, trust_env=False)

    def items(self, *scopes: str, bounds: Bounds | None = None) -> dict[str, dict[str, Any]]:
        answer = self.client(*scopes, bounds=bounds).get("/api/budgets")
        assert answer.status_code == 200, answer.text
        return {item["name"]: item for item in answer.json()["items"]}


@pytest.fixture(scope="module")
def there(servers, databases) -> Iterator[Budgets]:  # type: ignore[no-untyped-def]  # fixtures of the session
    name = databases.take()
    url = servers.postgres.url(name)
    settings = load_settings(database_url=url, redis_url=servers.redis_url)
    now = datetime.now(UTC)
    first = datetime(now.year, now.month, 1, tzinfo=UTC)
    with psycopg.connect(url, autocommit=True) as postgres:
        events = [
            event_at(now, team=team, user_id=user, service=service, model=model, api_key_id=key)
            for team, service, user in (("a", "chat", "me"), ("a", "chat", "you"), ("b", "other", "you"))
            for model, key in (("gpt-4o", "k"), ("unheard-of", "l"))
        ] + [event_at(first, team="a", user_id="me"), event_at(first - timedelta(seconds=1), team="a", user_id="me")]
        store_events(postgres, settings, now, *events)
        for day in {now.date(), first.date(), first.date() - timedelta(days=1)}:
            replace_window(postgres, day_window(day, settings.timezone), settings=settings)
        for budget, scope in SCOPES.items():
            set_budget(postgres, budget_of(budget, scope, "month", "5", "requests", None))
        set_budget(postgres, budget_of("money", "team=a", "month", "0.1", "usd", "25,100"))
        with serving(settings) as service:
            yield Budgets(service.client.base_url, postgres)
    databases.drop(name)


def test_an_item_says_all_of_a_budget(there: Budgets) -> None:
    found = there.items("read")
    today = datetime.now(UTC).date()
    next_month = (today.replace(day=28) + timedelta(days=4)).replace(day=1)
    money = found["money"]
    assert money | {"asOf": "", "forecast": ""} == {
        "name": "money",
        "scope": {"team": "a"},
        "period": "month",
        "periodStart": str(today.replace(day=1)),
        "periodEnd": str(next_month - timedelta(days=1)),
        "unit": "usd",
        "limit": "0.1",
        "used": "0.03",
        "left": "0.07",
        "share": 0.3,
        "forecast": "",
        "unpricedRequests": 2,
        "alertShares": [25, 100],
        "asOf": "",
    }
    assert money["forecast"] is None or Decimal(money["forecast"]) >= Decimal("0.03")
    everything = found["all"]
    assert (everything["scope"], everything["used"], everything["left"], everything["share"]) == ({}, 7, 0, 1.4)
    assert (found["key"]["scope"], found["key"]["unpricedRequests"]) == ({"apiKey": "k"}, 0)


def test_what_is_used_is_what_exploring_says(there: Budgets) -> None:
    client = there.client("read", "users")
    found = there.items("read", "users")
    assert len(found) == len(SCOPES) + 1
    metrics = {"usd": ("cost_usd", "costUsd"), "requests": ("requests", "requests")}
    for item in found.values():
        metric, member = metrics[item["unit"]]
        filters = {f"filter.{name.replace('apiKey', 'api_key')}": value for name, value in item["scope"].items()}
        days = {"from": item["periodStart"], "to": item["periodEnd"]}
        answer = client.get("/api/usage/explore", params={**days, "grain": "total", "metrics": metric, **filters})
        [explored] = answer.json()["items"]
        assert explored[member] == item["used"], item


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        (Bounds(teams=("a",)), {"a", "money"}),
        (Bounds(teams=("a", "b")), {"a", "b", "money"}),
        (Bounds(services=("chat",)), {"chat"}),
        (Bounds(users=("me",)), {"me"}),
        (Bounds(teams=("c",)), set()),
        # Of the team it sees a part only.
        (Bounds(teams=("a",), services=("chat",)), set()),
        (Bounds(teams=("a",), users=("me",)), set()),
    ],
)
def test_a_bound_token_sees_the_budgets_that_are_its_own(there: Budgets, bounds: Bounds, expected: set[str]) -> None:
    assert set(there.items("read", bounds=bounds)) == expected
    assert set(there.items("read", "users", bounds=bounds)) == expected


def test_budgets_of_users_need_the_scope_users(there: Budgets) -> None:
    everyone = {*SCOPES, "money"}
    assert set(there.items("read")) == everyone - {"me", "you"}
    assert set(there.items("read", "users")) == everyone


def test_the_time_of_somebody_elses_event_is_not_told_to_a_bound_token(there: Budgets) -> None:
    answer = there.client("read", bounds=Bounds(teams=("a",))).get("/api/budgets").json()
    assert answer["asOf"].endswith(":00:00Z")
    assert all(item["asOf"].endswith(":00:00Z") for item in answer["items"])


def test_a_bound_token_has_the_forecast_of_everybody_in_two_digits(there: Budgets) -> None:
    """By the hour that is shown of the time, and all that is used, it would be up to twice as much."""
    now = datetime.now(UTC)
    set_budget(there.postgres, budget_of("hours", "team=a", "month", "5", "tokens", None))
    columns = "ops.touched_windows (grain, window_start, touched_at)"
    mark = f"insert into {columns} values ('day', date_trunc('day', now(), 'UTC'), %s)"
    month = datetime(now.year, now.month, 1, tzinfo=UTC)
    as_of = month + timedelta(hours=1, minutes=59)
    try:
        there.postgres.execute(mark, (as_of,))
        found = there.items("read", bounds=Bounds(teams=("a",)))["hours"]
        everybody = there.items("read")["hours"]
    finally:
        there.postgres.execute("delete from ops.touched_windows where touched_at = %s", (as_of,))
        there.postgres.execute("delete from ops.budgets where name = 'hours'")
    minutes = ((month + timedelta(days=32)).replace(day=1) - month) / timedelta(minutes=1)
    expected = found["used"] * minutes / 119
    assert everybody["forecast"] == round(expected)
    assert found["forecast"] == float(f"{expected:.1e}")
    assert found["asOf"] == f"{month:%Y-%m-%d}T01:00:00Z"


def test_who_may_not_read_and_what_is_unknown_is_refused(there: Budgets) -> None:
    expect_problem(there.client("ingest").get("/api/budgets"), 403, "forbidden")
    expect_problem(there.client("read").get("/api/budgets?team=a"), 422, "invalid-parameter")
    expect_problem(httpx.get(f"{there.base_url}/api/budgets", trust_env=False), 401, "unauthorized")
