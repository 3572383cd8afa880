"""Corrections over HTTP: each with a note that names the token, only with the scope for it, and never silently."""

import gzip
import json
from typing import Any

import httpx
import psycopg
import pytest

from usage_pipeline_tests.rigs.events import event
from usage_pipeline_tests.rigs.service import CORRECTIONS_PATH, EVENTS_PATH, Service, expect_problem, new_token

JSON = {"Content-Type": "application/json"}


@pytest.fixture
def client(service: Service, postgres: psycopg.Connection) -> httpx.Client:
    return service.with_token(new_token(postgres, "ingest", "correct"))


def void(of: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {"action": "void", "event_id": of["event_id"], "reason": "sent by a load test"} | changes


def test_ids_that_are_no_uuids_are_those_of_the_token_as_in_the_ingest(
    client: httpx.Client, postgres: psycopg.Connection
) -> None:
    sent = event(event_id="chatcmpl-213")
    assert client.post(EVENTS_PATH, json=[sent]).json()["inserted"] == 1
    right = {"action": "replace", "event": sent | {"input_tokens": 7}, "reason": "characters, not tokens"}
    assert client.post(CORRECTIONS_PATH, json=[right]).json()["corrected"] == 1
    stored = "select external_id, source, input_tokens from analytics.usage_events"
    assert postgres.execute(stored).fetchall() == [("chatcmpl-213", "test", 7)]
    assert client.post(CORRECTIONS_PATH, json=[void(sent)]).json()["corrected"] == 1
    assert postgres.execute(stored).fetchall() == []


def test_items_are_corrected_or_told_by_index(client: httpx.Client, postgres: psycopg.Connection) -> None:
    first, second = event(), event(input_tokens=900_000)
    client.post(EVENTS_PATH, json=[first, second])
    right = second | {"input_tokens": 900}
    asked = [
        void(first),
        {"action": "replace", "event": right, "reason": "characters, not tokens"},
        void(event(), event=None),
        void(second, reason=" "),
        void(first, event_id="chatcmpl-1"),
        void(first, event_id="chatcmpl-1", source="gateway"),
        void(first, event=first),
        {"action": "replace", "event_id": first["event_id"], "event": right, "reason": "another id"},
        {"action": "replace", "event_id": first["event_id"], "reason": "no event"},
        {"action": "lower", "event_id": first["event_id"], "reason": "no action"},
        3,
    ]
    answer = client.post(CORRECTIONS_PATH, json=asked).json()
    assert {name: answer[name] for name in ("received", "corrected", "already")} == {
        "received": 11,
        "corrected": 2,
        "already": 0,
    }
    assert [(one["index"], one["reason"].partition(":")[0]) for one in answer["rejected"]] == [
        (2, "event_id"),
        (3, "reason"),
        (4, "event_id"),
        (5, "event_id"),
        (6, "event"),
        (7, "event_id"),
        (8, "event"),
        (9, "expected a correction as a JSON object, came one with a fault"),
        (10, "expected a correction as a JSON object, came one with a fault"),
    ]
    assert postgres.execute("select event_id::text, input_tokens from analytics.usage_events").fetchall() == [
        (second["event_id"], 900)
    ]
    body = gzip.compress(json.dumps({"corrections": asked[:2]}).encode())
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    assert client.post(CORRECTIONS_PATH, content=body, headers=headers).json() == {
        "received": 2,
        "corrected": 0,
        "already": 2,
        "rejected": [],
    }
    [(token_id,)] = postgres.execute("select token_id from usage.api_access_tokens where name = 'test'").fetchall()
    notes = postgres.execute("select corrected_by, reason from ops.corrections order by correction_id").fetchall()
    assert sorted(notes) == [
        (f"token test ({token_id})", "characters, not tokens"),
        (f"token test ({token_id})", "sent by a load test"),
    ]


def test_what_was_corrected_is_a_duplicate_for_its_sender(client: httpx.Client) -> None:
    first = event()
    client.post(EVENTS_PATH, json=[first])
    client.post(CORRECTIONS_PATH, json=[{"action": "replace", "event": first | {"team": "b"}, "reason": "moved"}])
    answer = client.post(EVENTS_PATH, json=[first]).json()
    assert (answer["duplicates"], answer["conflicts"]) == (1, 0)


def test_another_scope_is_not_enough(service: Service, postgres: psycopg.Connection) -> None:
    client = service.with_token(new_token(postgres, "ingest", "read"))
    first = event()
    client.post(EVENTS_PATH, json=[first])
    expect_problem(client.post(CORRECTIONS_PATH, json=[void(first)]), 403, "forbidden")
    assert postgres.execute("select count(*) from analytics.usage_events").fetchall() == [(1,)]
    client = service.with_token(new_token(postgres, "correct"))
    expect_problem(client.post(EVENTS_PATH, json=[first]), 403, "forbidden")


def test_the_limits_are_those_of_the_ingest(client: httpx.Client) -> None:
    expect_problem(client.post(CORRECTIONS_PATH, json=[void(event())] * 1_001), 413, "too-many-items")
    expect_problem(client.post(CORRECTIONS_PATH, content=b"[", headers=JSON), 400, "invalid-json")
    csv = client.post(CORRECTIONS_PATH, content=b"[]", headers={"Content-Type": "text/csv"})
    expect_problem(csv, 415, "unsupported-media-type")
    expect_problem(client.post(CORRECTIONS_PATH, json={"events": []}), 422, "invalid-document")
