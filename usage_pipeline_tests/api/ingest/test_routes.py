"""Bulk ingest over HTTP: what is answered is committed, item by item."""

import gzip
import json
import select
import uuid
from datetime import timedelta
from typing import Any

import httpx
import psycopg
import pytest

from usage_pipeline.settings import Settings, load_settings
from usage_pipeline_tests.rigs.events import NOW, archive, event
from usage_pipeline_tests.rigs.service import (
    ARCHIVES_PATH,
    EVENTS_PATH,
    Service,
    expect_problem,
    new_token,
    serving,
)
from usage_pipeline_tests.rigs.waiting import wait_until


def count_of(postgres: psycopg.Connection, table: str) -> int:
    [(rows,)] = postgres.execute(f"select count(*) from {table}").fetchall()
    return int(rows)


@pytest.mark.parametrize("is_wrapped", [False, True])
@pytest.mark.parametrize("is_gzip", [False, True])
def test_events_are_stored_before_the_answer(
    ingest_client: httpx.Client, postgres: psycopg.Connection, is_wrapped: bool, is_gzip: bool
) -> None:
    events: Any = [event(), event()]
    body = json.dumps({"events": events} if is_wrapped else events).encode()
    headers = {"Content-Type": "application/json; charset=utf-8"} | ({"Content-Encoding": "gzip"} if is_gzip else {})
    response = ingest_client.post(EVENTS_PATH, content=gzip.compress(body) if is_gzip else body, headers=headers)
    assert response.status_code == 200, response.text
    assert response.json() == {"received": 2, "inserted": 2, "duplicates": 0, "conflicts": 0, "rejected": []}
    stored = postgres.execute("select event_id::text from analytics.usage_events").fetchall()
    assert {event_id for (event_id,) in stored} == {one["event_id"] for one in events}


@pytest.mark.parametrize("media_type", ["application/x-ndjson", "application/jsonl; charset=utf-8"])
@pytest.mark.parametrize("is_gzip", [False, True])
def test_events_may_come_one_a_line_and_are_rejected_by_the_number_of_their_line(
    ingest_client: httpx.Client, postgres: psycopg.Connection, media_type: str, is_gzip: bool
) -> None:
    lines = [json.dumps(event()), "", "nonsense", json.dumps(event(team="")), json.dumps(event()), "[1]"]
    body = "\n".join(lines).encode()
    headers = {"Content-Type": media_type} | ({"Content-Encoding": "gzip"} if is_gzip else {})
    response = ingest_client.post(EVENTS_PATH, content=gzip.compress(body) if is_gzip else body, headers=headers)
    answer = response.json()
    assert (response.status_code, answer["received"], answer["inserted"]) == (200, 5, 2)
    assert [one["index"] for one in answer["rejected"]] == [1, 2, 4]
    assert count_of(postgres, "analytics.usage_events") == 2


def test_too_many_lines_are_refused_as_a_whole(settings: Settings, postgres: psycopg.Connection) -> None:
    with serving(settings.model_copy(update={"max_bulk_size": 2})) as service:
        client = service.with_token(new_token(postgres))
        body = "\n".join(json.dumps(event()) for _ in range(3))
        response = client.post(EVENTS_PATH, content=body, headers={"Content-Type": "application/x-ndjson"})
        assert "MAX_BULK_SIZE" in expect_problem(response, 413, "too-many-items")
    assert count_of(postgres, "analytics.usage_events") == 0


def test_a_single_event_needs_no_array(ingest_client: httpx.Client, postgres: psycopg.Connection) -> None:
    assert ingest_client.post(EVENTS_PATH, json=event()).json()["inserted"] == 1
    assert ingest_client.post(EVENTS_PATH, json=event(team="")).json()["rejected"][0]["index"] == 0
    assert count_of(postgres, "analytics.usage_events") == 1


def test_ids_that_are_no_uuids_are_unique_for_their_sender_or_source(
    settings: Settings, postgres: psycopg.Connection
) -> None:
    with serving(settings) as service:
        answers = []
        for name, source in (("one", ...), ("two", ...), ("one", ...), ("two", "one"), ("one", "gateway-1")):
            client = service.with_token(new_token(postgres, name=name))
            sent = event(event_id="chatcmpl-213", source=source, event_time=NOW.isoformat())
            answers.append(client.post(EVENTS_PATH, json=[sent]).json())
    assert [(answer["inserted"], answer["duplicates"]) for answer in answers] == [
        (1, 0),
        (1, 0),
        (0, 1),
        (0, 1),
        (1, 0),
    ]
    stored = postgres.execute("select source, external_id from analytics.usage_events order by source").fetchall()
    assert stored == [("gateway-1", "chatcmpl-213"), ("one", "chatcmpl-213"), ("two", "chatcmpl-213")]


def test_duplicates_conflicts_and_rejected_items_are_told_apart(
    ingest_client: httpx.Client, postgres: psycopg.Connection
) -> None:
    first, second = event(), event()
    assert ingest_client.post(EVENTS_PATH, json=[first, second]).json()["inserted"] == 2
    batch = [first, second | {"model": "another"}, event(team=""), event(), {"event_id": 1}]
    answer = ingest_client.post(EVENTS_PATH, json=batch).json()
    assert {name: answer[name] for name in ("received", "inserted", "duplicates", "conflicts")} == {
        "received": 5,
        "inserted": 1,
        "duplicates": 1,
        "conflicts": 1,
    }
    assert [one["index"] for one in answer["rejected"]] == [2, 4]
    assert answer["rejected"][0]["reason"] == "team: expected 1 to 200 characters, came 0"
    assert count_of(postgres, "analytics.usage_events") == 3


def test_archives_of_unknown_events_are_rejected_by_index(
    ingest_client: httpx.Client, postgres: psycopg.Connection
) -> None:
    known, unknown = event(), str(uuid.uuid4())
    ingest_client.post(EVENTS_PATH, json=[known])
    answer = ingest_client.post(ARCHIVES_PATH, json={"archives": [archive(unknown), archive(known["event_id"])]}).json()
    assert answer["inserted"] == 1
    assert answer["rejected"] == [
        {"index": 0, "reason": f"event_id: expected the id of a stored event, came {unknown}"}
    ]
    assert count_of(postgres, "analytics.message_archives") == 1


def test_the_ledger_names_the_token(ingest_client: httpx.Client, postgres: psycopg.Connection) -> None:
    ingest_client.post(EVENTS_PATH, json=[event()])
    [(source, token_id)] = postgres.execute(
        "select source, token_id from ops.ingest_batches, usage.api_access_tokens"
    ).fetchall()
    assert source == f"http:{token_id}"


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        (b"", 400, "invalid-json"),
        (b"[1", 400, "invalid-json"),
        (b'[{"event_id": }]', 400, "invalid-json"),
        (b"{}", 422, "invalid-document"),
        (b"3", 422, "invalid-document"),
        (b'{"events": [], "more": 1}', 422, "invalid-document"),
        (b'{"archives": []}', 422, "invalid-document"),
    ],
)
def test_another_document_is_refused_as_a_whole(
    ingest_client: httpx.Client, postgres: psycopg.Connection, body: bytes, status: int, kind: str
) -> None:
    response = ingest_client.post(EVENTS_PATH, content=body, headers={"Content-Type": "application/json"})
    assert "expected a JSON array, or an object" in expect_problem(response, status, kind)
    assert count_of(postgres, "ops.ingest_batches") == 0


@pytest.mark.parametrize(
    ("headers", "kind", "shown"),
    [
        ({"Content-Type": "text/plain"}, "unsupported-media-type", "text/plain"),
        ({"Content-Type": "application/x-www-form-urlencoded"}, "unsupported-media-type", "x-www-form"),
        ({}, "unsupported-media-type", "none"),
        ({"Content-Type": "application/json; charset=utf-16"}, "unsupported-media-type", "utf-16"),
        ({"Content-Type": "application/json", "Content-Encoding": "br"}, "unsupported-content-encoding", "br"),
        ({"Content-Type": "application/json", "Content-Encoding": "gzip, gzip"}, "unsupported-content-encoding", ","),
    ],
)
def test_other_media_types_and_encodings_are_415(
    ingest_client: httpx.Client, headers: dict[str, str], kind: str, shown: str
) -> None:
    response = ingest_client.post(EVENTS_PATH, content=b"[]", headers=headers)
    assert shown in expect_problem(response, 415, kind)


def test_a_database_that_is_away_is_503_with_retry_after_and_its_return_needs_no_restart(
    settings: Settings, postgres: psycopg.Connection, database_url: str
) -> None:
    away = load_settings(
        database_url="postgresql://u:hunter2@127.0.0.1:1/x",
        redis_url=settings.redis_dsn.get_secret_value(),
        connect_timeout_seconds=0.5,
    )
    token = new_token(postgres)
    with serving(settings) as service:
        service.with_token(token).post(EVENTS_PATH, json=[])  # caches the token
    with serving(away) as service:
        response = service.with_token(token).post(EVENTS_PATH, json=[event()])
        assert "hunter2" not in response.text
        detail = expect_problem(response, 503, "unavailable")
        # It has not read the key yet, which says whether a cached token is one.
        assert "send the request again" in detail
        assert int(response.headers["retry-after"]) > 0


def test_connections_that_the_server_ended_are_replaced(
    ingest_client: httpx.Client, postgres: psycopg.Connection
) -> None:
    for _ in range(2):
        assert ingest_client.post(EVENTS_PATH, json=[event()]).status_code == 200
        postgres.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = current_database() and pid <> pg_backend_pid()"
        )


def test_what_fails_by_our_own_fault_is_a_500_without_internals(
    ingest_client: httpx.Client, postgres: psycopg.Connection
) -> None:
    postgres.execute("alter table ops.ingest_batches drop column source")
    response = ingest_client.post(EVENTS_PATH, json=[event()])
    assert expect_problem(response, 500, "internal-error") == "the server failed. Its log has the error"
    assert count_of(postgres, "analytics.usage_events") == 0


def test_a_server_with_all_places_taken_turns_others_away_at_once(
    database_url: str, redis_url: str, postgres: psycopg.Connection
) -> None:
    from usage_pipeline.api.storing import REQUESTS_PER_CONNECTION

    settings = load_settings(database_url=database_url, redis_url=redis_url, db_pool_size=1)
    token = new_token(postgres)
    with serving(settings) as service:
        client = service.with_token(token)
        sent = [service.raw("Content-Length: 2", token=token) for _ in range(REQUESTS_PER_CONNECTION + 2)]
        # A token alone gets half of the places.
        turned_away = REQUESTS_PER_CONNECTION // 2 + 2
        wait_until(lambda: len(select.select(sent, [], [], 0)[0]) == turned_away, "those over its share are answered")
        refused, _, _ = select.select(sent, [], [], 0)
        for connection in refused:
            assert connection.recv(12) == b"HTTP/1.1 503"
        assert "requests of this token are running" in expect_problem(
            client.post(EVENTS_PATH, json=[]), 503, "unavailable"
        )
        for connection in set(sent) - set(refused):
            connection.sendall(b"[]")
            assert connection.recv(12) == b"HTTP/1.1 200"
        for connection in sent:
            connection.close()
        assert client.post(EVENTS_PATH, json=[]).status_code == 200


def test_both_kinds_of_errors_before_a_route_are_problems(service: Service) -> None:
    expect_problem(service.client.get("/nowhere"), 404, "not-found")
    wrong = service.client.get(EVENTS_PATH)
    expect_problem(wrong, 405, "method-not-allowed")
    assert wrong.headers["allow"] == "POST"


def test_an_event_from_before_the_first_day_of_usage_is_rejected_by_its_index(
    settings: Settings, postgres: psycopg.Connection
) -> None:
    at = NOW.replace(hour=0, minute=0, second=0)
    early, first = event(event_time=(at - timedelta(seconds=1)).isoformat()), event(event_time=at.isoformat())
    with serving(settings.model_copy(update={"usage_start_date": at.date()})) as service:
        answer = service.with_token(new_token(postgres)).post(EVENTS_PATH, json=[first, early]).json()
    assert (answer["inserted"], [one["index"] for one in answer["rejected"]]) == (1, [1])
    assert f"(USAGE_START_DATE={at:%Y-%m-%d})" in answer["rejected"][0]["reason"]
