"""Single requests over HTTP: each once, newest first, with costs that add up, and rights for users, tags and prompts."""

import base64
import json
from datetime import timedelta
from decimal import Decimal
from hashlib import sha256
from typing import Any
from urllib.parse import parse_qsl, urlsplit
from uuid import UUID

import httpx
import psycopg
import pytest

from usage_pipeline.bindings import Bounds
from usage_pipeline.explore import requests as searching
from usage_pipeline.settings import load_settings
from usage_pipeline_tests.api.explore.conftest import FIRST, LAST, NOW, Explored
from usage_pipeline_tests.api.explore.test_routes import DAYS, explore
from usage_pipeline_tests.rigs.events import is_error
from usage_pipeline_tests.rigs.service import expect_problem, new_token, serving
from usage_pipeline_tests.rigs.windows import event_at
from usage_pipeline_tests.rollups.trace_rig import store


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


ODD_TAGS = ["50%", "%s", "%(newest)s", "%%", "{0}", "a'b", 'we"ird', "\\"]


def test_a_tag_of_any_name_is_found(databases: Any, servers: Any) -> None:
    settings = load_settings(
        database_url=servers.postgres.url(databases.take()), redis_url=servers.redis_url, retention_days=3_000
    )
    events = [event_at(NOW, tags={name: "x"}) for name in ODD_TAGS]
    with psycopg.connect(settings.database_url.get_secret_value(), autocommit=True) as postgres:
        store(postgres, events, settings, NOW)
        with serving(settings) as service:
            token = new_token(postgres, "read", "users")
            client = httpx.Client(
                base_url=service.client.base_url, headers={"Authorization": f"Bearer {token}"}, trust_env=False
            )
            asked = {"from": str(NOW.date()), "to": str(NOW.date())}
            for event, name in zip(events, ODD_TAGS, strict=True):
                found = client.get("/api/usage/requests", params={**asked, f"filter.tag:{name}": "x"})
                assert found.status_code == 200, (name, found.text)
                assert [item["eventId"] for item in found.json()["items"]] == [event["event_id"]], name
                assert (
                    client.get("/api/usage/requests", params={**asked, f"filter.tag:{name}": "y"}).json()["items"] == []
                )


@pytest.mark.parametrize("bounds", [None, Bounds(teams=("busy",))])
def test_requests_of_one_moment_that_come_between_two_pages_are_shown_at_most_once(
    explored: Explored, bounds: Bounds | None
) -> None:
    at = NOW - timedelta(days=1)
    scopes = ("read", "users")
    before = [event_at(at, team="busy", service=f"before-{number}") for number in range(60)]
    store(explored.postgres, before, explored.settings, NOW)
    try:
        client = explored.client(*scopes, bounds=bounds)
        asked = {"from": str(at.date()), "to": str(at.date()), "filter.team": "busy", "limit": "7"}
        page = client.get("/api/usage/requests", params=asked).json()
        found = page["items"]
        number = 0
        while page["next"] is not None:
            number += 1
            new = (
                [event_at(at, team="busy", service=f"a new one {number}-{one}") for one in range(3)]
                if number < 5
                else []
            )
            store(explored.postgres, new, explored.settings, NOW) if new else None
            page = client.get(page["next"]).json()
            found += page["items"]
        ids = [item["service"] for item in found]
        assert len(set(ids)) == len(ids)
        assert {f"before-{number}" for number in range(60)} <= set(ids)
    finally:
        explored.postgres.execute("delete from analytics.usage_events where team = 'busy'")


def test_a_place_within_a_moment_tells_who_is_bound_nothing_of_ids(explored: Explored) -> None:
    ids = [UUID(event["event_id"]).bytes for event in explored.events]
    digests = {sha256(before + one).digest()[:16] for one in ids for before in (b"", b"\0")}
    bound = explored.client("read", bounds=Bounds(teams=("team-1",)))
    path = bound.get("/api/usage/requests", params={**DAYS, "limit": 1}).json()["next"]
    cursor = dict(parse_qsl(urlsplit(path).query))["after"]
    [_, place] = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    assert len(base64.b64decode(place)) == 16
    assert base64.b64decode(place) not in digests


@pytest.mark.parametrize(
    "place",
    [
        ["0001-01-01T00:00:00+14:00", ""],
        ["9999-12-31T23:59:59-12:00", ""],
        ["0001-01-01T00:00:00Z", ""],
        ["2025-06-09T23:59:59Z", ""],
        ["2025-06-13T00:00:01Z", ""],
        ["2025-06-11T00:00:00", ""],
        ["2025-06-11T00:00:00Z", 0],
    ],
)
def test_a_cursor_of_a_place_that_no_page_ends_at_is_refused(person: httpx.Client, place: list[Any]) -> None:
    cursor = base64.urlsafe_b64encode(json.dumps(place).encode()).decode().rstrip("=")
    answer = person.get("/api/usage/requests", params={**DAYS, "after": cursor})
    assert "after: expected the cursor" in expect_problem(answer, 422, "invalid-parameter")


def test_the_address_of_the_next_page_is_hardly_longer_than_the_one_asked(person: httpx.Client) -> None:
    values = "&".join(f"filter.model=vendor/a:b@{number:02},{'::' * 20}" for number in range(99))
    for route in ("explore", "requests"):
        for shown in ("filter.model=gpt-4o", "filter.model=gpt-4o-mini"):
            path = f"/api/usage/{route}?from={FIRST}&to={LAST}&limit=1&{shown}&{values}"
            following = person.get(path).raise_for_status().json()["next"]
            assert len(following) < len(path) + 150
            assert person.get(following).status_code == 200


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
