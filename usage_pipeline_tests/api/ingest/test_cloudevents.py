"""The route for CloudEvents: what the SDK of the standard sends in each mode is stored, once by source and id."""

import base64
import gzip
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import httpx
import psycopg
import pytest
from cloudevents.core.bindings.http import HTTPMessage, to_binary_event, to_structured_event
from cloudevents.core.v1.event import CloudEvent
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from usage_pipeline_tests.rigs.events import NOW, event
from usage_pipeline_tests.rigs.service import CLOUDEVENTS_PATH, EVENTS_PATH, expect_problem

STRUCTURED = {"Content-Type": "application/cloudevents+json"}
BATCHED = {"Content-Type": "application/cloudevents-batch+json"}
TIME = NOW - timedelta(minutes=10)


def data(**changes: Any) -> dict[str, Any]:
    """Members of an event that the envelope does not have."""
    return event(event_id=..., event_time=..., **changes)


def cloudevent(members: dict[str, Any] | None = None, **attributes: Any) -> CloudEvent:
    """A CloudEvent of the SDK; an attribute that is `...` is left out."""
    every = {"id": "request 7/ü%", "source": "/gateways/eu-1", "type": "llm.request", "time": TIME, **attributes}
    kept = {name: value for name, value in every.items() if value is not ...}
    return CloudEvent(attributes=kept, data=data() if members is None else members)


def sent(client: httpx.Client, message: HTTPMessage) -> dict[str, Any]:
    response = client.post(CLOUDEVENTS_PATH, content=message.body, headers=message.headers)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def rows(postgres: psycopg.Connection) -> list[dict[str, Any]]:
    with postgres.cursor(row_factory=psycopg.rows.dict_row) as cursor:
        return cursor.execute("select * from analytics.usage_events order by external_id, source").fetchall()


@pytest.mark.parametrize("in_mode", [to_binary_event, to_structured_event])
def test_an_event_of_the_sdk_is_stored_once(
    ingest_client: httpx.Client, postgres: psycopg.Connection, in_mode: Any
) -> None:
    made = cloudevent(data(cost_usd="0.25", usage={"cache_read_tokens": 60}))
    assert sent(ingest_client, in_mode(made))["inserted"] == 1
    assert sent(ingest_client, in_mode(made))["duplicates"] == 1
    # The same event in the other modes.
    assert sent(ingest_client, to_binary_event(made))["duplicates"] == 1
    assert sent(ingest_client, to_structured_event(made))["duplicates"] == 1
    [row] = rows(postgres)
    assert (row["external_id"], row["source"], row["event_time"]) == ("request 7/ü%", "/gateways/eu-1", TIME)
    assert (row["team"], row["input_tokens"], row["cache_read_tokens"]) == ("search", 100, 60)
    assert row["cost_usd"] == Decimal("0.25")


def test_a_batch_is_stored_and_its_faults_are_told_by_index(
    ingest_client: httpx.Client, postgres: psycopg.Connection
) -> None:
    good = [cloudevent(id=str(number)) for number in range(3)]
    batch = [json.loads(to_structured_event(one).body) for one in good]
    batch[1:1] = [{**batch[0], "specversion": "0.3"}, {**batch[0], "id": "x", "data": [1]}]
    body = gzip.compress(json.dumps(batch).encode())
    answer = ingest_client.post(CLOUDEVENTS_PATH, content=body, headers=BATCHED | {"Content-Encoding": "gzip"}).json()
    assert (answer["received"], answer["inserted"]) == (5, 3)
    assert [one["index"] for one in answer["rejected"]] == [1, 2]
    assert answer["rejected"][0]["reason"] == "specversion: expected 1.0, came '0.3'"
    assert "data: expected the members of a usage event" in answer["rejected"][1]["reason"]
    assert [row["external_id"] for row in rows(postgres)] == ["0", "1", "2"]


def test_an_id_is_unique_for_its_source_and_the_same_as_on_the_bulk_route(
    ingest_client: httpx.Client, postgres: psycopg.Connection
) -> None:
    for source in ("/a", "/b", "/a"):
        sent(ingest_client, to_binary_event(cloudevent(source=source, id="1")))
    assert [row["source"] for row in rows(postgres)] == ["/a", "/b"]
    bulk = {**data(), "event_id": "1", "source": "/b", "event_time": TIME.isoformat()}
    assert ingest_client.post(EVENTS_PATH, json=[bulk]).json()["duplicates"] == 1
    changed = sent(ingest_client, to_structured_event(cloudevent(data(model="another"), source="/b", id="1")))
    assert changed["conflicts"] == 1


def test_the_time_of_the_data_comes_before_that_of_the_envelope(
    ingest_client: httpx.Client, postgres: psycopg.Connection
) -> None:
    inside = TIME - timedelta(minutes=5)
    sent(ingest_client, to_binary_event(cloudevent(data() | {"event_time": inside.isoformat()})))
    [row] = rows(postgres)
    assert row["event_time"] == inside


def test_what_a_sender_does_not_know_is_unknown(ingest_client: httpx.Client, postgres: psycopg.Connection) -> None:
    sent(ingest_client, to_binary_event(cloudevent(data(user_id=..., team=None, service=...))))
    [row] = rows(postgres)
    assert (row["user_id"], row["team"], row["service"]) == ("unknown", "unknown", "unknown")


def test_data_may_be_in_base64(ingest_client: httpx.Client, postgres: psycopg.Connection) -> None:
    envelope = json.loads(to_structured_event(cloudevent()).body)
    envelope["data_base64"] = base64.b64encode(json.dumps(envelope.pop("data")).encode()).decode()
    assert ingest_client.post(CLOUDEVENTS_PATH, json=envelope, headers=STRUCTURED).json()["inserted"] == 1
    envelope["data_base64"] = "$"
    [refused] = ingest_client.post(CLOUDEVENTS_PATH, json=envelope, headers=STRUCTURED).json()["rejected"]
    assert "data_base64: expected base64" in refused["reason"]
    assert len(rows(postgres)) == 1


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"id": ""}, "id: expected a text, came ''"),
        ({"id": 7}, "id: expected a text, came '7'"),
        ({"source": None}, "source: expected a text, came none"),
        ({"type": ""}, "type: expected a text"),
        ({"source": "s" * 300}, "source: expected 1 to 200 characters, came 300"),
        ({"time": None}, "time: expected the time of the event, here or as data.event_time, came none"),
        ({"time": "yesterday"}, "event_time"),
        ({"time": datetime(2001, 1, 1, tzinfo=UTC).isoformat()}, "event_time: expected a time from"),
        ({"datacontenttype": "text/plain"}, "datacontenttype: expected application/json or none, came 'text/plain'"),
        ({"data": None}, "data: expected the members of a usage event"),
        ({"data": {"models": "x"}}, "data: expected the members of a usage event"),
        ({"data": data(model=...)}, "model"),
        ({"data": data() | {"event_id": "other"}}, "data.event_id: expected the id of the CloudEvent, or none"),
        ({"data": data(source="other")}, "data.source: expected the source of the CloudEvent, or none"),
        ({"data": data(cost_usd=-1)}, "cost_usd"),
    ],
)
def test_an_event_that_breaks_a_rule_is_rejected_with_its_reason(
    ingest_client: httpx.Client, postgres: psycopg.Connection, changes: dict[str, Any], reason: str
) -> None:
    envelope = json.loads(to_structured_event(cloudevent()).body) | changes
    answer = ingest_client.post(CLOUDEVENTS_PATH, json=[envelope], headers=BATCHED).json()
    assert reason in answer["rejected"][0]["reason"]
    assert rows(postgres) == []


def test_extensions_are_passed_over(ingest_client: httpx.Client, postgres: psycopg.Connection) -> None:
    made = cloudevent(subject="a subject", dataschema="https://example.com/s", traceparent="00-0af7-b7ad-01")
    assert sent(ingest_client, to_structured_event(made))["inserted"] == 1
    assert sent(ingest_client, to_binary_event(made))["duplicates"] == 1


@pytest.mark.parametrize(
    ("headers", "body", "status", "kind"),
    [
        ({"Content-Type": "application/json"}, b"{}", 415, "unsupported-media-type"),
        ({"Content-Type": "text/plain", "ce-specversion": "1.0"}, b"{}", 415, "unsupported-media-type"),
        (STRUCTURED, b"", 400, "invalid-json"),
        (STRUCTURED, b'{"id": }', 400, "invalid-json"),
        (STRUCTURED, b"[]", 422, "invalid-document"),
        (BATCHED, b"{}", 422, "invalid-document"),
        (BATCHED, b"[1", 400, "invalid-json"),
        ({"Content-Type": "application/json", "ce-specversion": "1.0"}, b"[]", 422, "invalid-document"),
        ({"Content-Type": "application/json", "ce-specversion": "1.0"}, b"{", 400, "invalid-json"),
    ],
)
def test_another_document_is_refused_as_a_whole(
    ingest_client: httpx.Client, headers: dict[str, str], body: bytes, status: int, kind: str
) -> None:
    detail = expect_problem(ingest_client.post(CLOUDEVENTS_PATH, content=body, headers=headers), status, kind)
    if headers == {"Content-Type": "application/json"}:
        assert "ce-specversion" in detail


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=10,
)
DATA = st.fixed_dictionaries({}, optional={name: st.just(value) | ANY for name, value in data().items()})
ENVELOPES = st.fixed_dictionaries(
    {},
    optional={
        "specversion": st.just("1.0"),
        "id": st.just("1") | ANY,
        "source": st.just("/a") | ANY,
        "type": st.just("t") | ANY,
        "time": st.just(TIME.isoformat()) | ANY,
        "datacontenttype": st.just("application/json") | ANY,
        "data": DATA | ANY,
        "data_base64": ANY,
    },
)
HEADERS = st.dictionaries(
    st.sampled_from(["ce-specversion", "ce-id", "ce-source", "ce-type", "ce-time", "ce-odd"]),
    # Spaces at an end are none of a value.
    st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=10).map(str.strip),
)


@given(items=st.lists(ENVELOPES | ANY, max_size=3), is_batch=st.booleans(), headers=HEADERS)
@hypothesis_settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_anything_is_stored_or_refused_with_a_reason(
    ingest_client: httpx.Client, items: list[Any], is_batch: bool, headers: dict[str, str]
) -> None:
    body = items if is_batch else (items[0] if items else None)
    media_type = (
        "application/json" if "ce-specversion" in headers else (BATCHED if is_batch else STRUCTURED)["Content-Type"]
    )
    encoded = {name: value.encode("latin-1") for name, value in {**headers, "Content-Type": media_type}.items()}
    response = ingest_client.post(CLOUDEVENTS_PATH, content=json.dumps(body), headers=encoded)
    answer = response.json()
    if response.status_code != 200:
        assert response.status_code in (400, 422), answer
        assert answer["detail"]
        return
    counted = sum(answer[name] for name in ("inserted", "duplicates", "conflicts"))
    assert counted + len(answer["rejected"]) == answer["received"]
    assert all(one["reason"] for one in answer["rejected"])
