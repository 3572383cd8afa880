"""Single requests over HTTP: each once, newest first, with costs that add up, and rights for users, tags and prompts."""

from decimal import Decimal
from typing import Any

import httpx
import pytest

from usage_pipeline.bindings import Bounds
from usage_pipeline.explore import requests as searching
from usage_pipeline_tests.api.explore.conftest import Explored
from usage_pipeline_tests.api.explore.test_routes import DAYS, explore
from usage_pipeline_tests.rigs.events import is_error
from usage_pipeline_tests.rigs.service import expect_problem


def all_pages(client: httpx.Client, limit: int = 60, **parameters: Any) -> list[dict[str, Any]]:
    path: str | None = None
    found: list[dict[str, Any]] = []
    for _ in range(100):
        asked = {**DAYS, "limit": limit, **parameters}
        answer = client.get("/api/usage/requests", params=asked) if path is None else client.get(path)
        assert answer.status_code == 200, answer.text
        found += answer.json()["items"]
        if (path := answer.json()["next"]) is None:
            return found
    raise AssertionError("expected pages to end")


@pytest.fixture(scope="module")
def person(explored: Explored) -> httpx.Client:
    return explored.client("read", "users", "prompts")


def test_each_request_is_on_one_page_newest_first_and_costs_add_up(person: httpx.Client, explored: Explored) -> None:
    found = all_pages(person)
    assert sorted(item["eventId"] for item in found) == sorted(event["event_id"] for event in explored.events)
    times = [item["eventTime"] for item in found]
    assert times == sorted(times, reverse=True)
    sent = {event["event_id"]: event for event in explored.events}
    for item in found:
        event = sent[item["eventId"]]
        assert item["user"] == event["user_id"]
        assert item["prompt"] == event["prompt"]
        assert item["tags"] == event.get("tags")
        assert item["inputTokens"] == event["usage"]["input_tokens"]
        assert Decimal(item["reportedCostUsd"] or -1) == Decimal(event.get("cost_usd", -1))
    total = explore(person, grain="total", metrics="cost_usd,list_cost_usd")["items"][0]
    for name in ("costUsd", "listCostUsd"):
        assert sum(Decimal(item[name] or 0) for item in found) == Decimal(total[name])


@pytest.mark.parametrize(
    ("filters", "fits"),
    [
        ({"filter.team": "team-1"}, lambda one: one["team"] == "team-1"),
        ({"filter.api_key": ""}, lambda one: "api_key_id" not in one),
        ({"filter.user": ["user-0", "user-1"]}, lambda one: one["user_id"] in ("user-0", "user-1")),
        ({"filter.tag:project": "it's"}, lambda one: one.get("tags", {}).get("project") == "it's"),
        ({"filter.outcome": "error"}, is_error),
        (
            {"filter.outcome": "ok", "filter.provider": "acme"},
            lambda one: not is_error(one) and one["provider"] == "acme",
        ),
        ({"filter.error_type": "timeout"}, lambda one: one.get("error_type") == "timeout"),
        (
            {"filter.error_type": "HTTP 429"},
            lambda one: one.get("status_code") == 429 and not one.get("error_type"),
        ),
        ({"filter.model": "none"}, lambda one: False),
    ],
)
def test_filters_keep_what_fits(person: httpx.Client, explored: Explored, filters: dict[str, Any], fits: Any) -> None:
    expected = {event["event_id"] for event in explored.events if fits(event)}
    assert {item["eventId"] for item in all_pages(person, **filters)} == expected


def test_users_tags_and_prompts_are_rights_of_their_own(explored: Explored) -> None:
    rights = {
        ("read",): set(),
        ("read", "users"): {"user", "tags"},
        ("read", "prompts"): {"prompt"},
    }
    for scopes, members in rights.items():
        [item] = explored.client(*scopes).get("/api/usage/requests", params={**DAYS, "limit": 1}).json()["items"]
        assert {"user", "tags", "prompt"} & set(item) == members


def test_who_is_bound_sees_its_own(explored: Explored) -> None:
    bound = explored.client("read", "users", bounds=Bounds(teams=("team-2",), services=("chat",)))
    expected = {
        event["event_id"] for event in explored.events if (event["team"], event["service"]) == ("team-2", "chat")
    }
    found = all_pages(bound)
    assert len(found) == len(expected)
    prompts = explored.client("read", "prompts", bounds=Bounds(teams=("team-2",), services=("chat",)))
    assert {item["prompt"] for item in all_pages(prompts)} == {
        event["prompt"] for event in explored.events if event["event_id"] in expected
    }
    # Its id may be another than was sent, which would tell that somebody else's event has that one.
    assert all("eventId" not in item for item in found)
    assert all_pages(bound, **{"filter.team": "team-1"}) == []


def test_a_search_that_takes_long_ends_a_page_and_goes_on(
    person: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(searching, "SEARCH_SECONDS", 0)
    first = person.get("/api/usage/requests", params={**DAYS, "filter.model": "none"}).json()
    assert first["items"] == []
    assert first["next"] is not None
    assert all_pages(person, **{"filter.model": "none"}) == []
    assert len(all_pages(person, limit=1_000)) == len(all_pages(person, limit=30))


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"after": "x"}, "after: expected the cursor"),
        ({"filter.outcome": "bad"}, "filter.outcome: expected one of ok, error"),
        ({"limit": "1001"}, "limit: expected 1 to 1000"),
        ({"grain": "day"}, "parameter: expected one of after, from, limit, to or filter.NAME"),
    ],
)
def test_what_is_wrong_is_said(person: httpx.Client, parameters: dict[str, str], said: str) -> None:
    assert said in expect_problem(person.get("/api/usage/requests", params=parameters), 422, "invalid-parameter")
