"""The route for LiteLLM's generic API callback: its three formats, its limits, and what is stored."""

import gzip
import json
import logging
from decimal import Decimal
from typing import Any

import httpx
import psycopg
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from usage_pipeline.settings import Settings
from usage_pipeline_tests.events.formats.recorded import payload, payloads
from usage_pipeline_tests.rigs.service import CLOUDEVENTS_PATH, LITELLM_PATH, expect_problem, new_token, serving

JSON = {"Content-Type": "application/json"}
LINES = {"Content-Type": "application/x-ndjson"}


def stored(postgres: psycopg.Connection) -> dict[str, dict[str, Any]]:
    """Rows by the id that the sender gave."""
    with postgres.cursor(row_factory=psycopg.rows.dict_row) as cursor:
        rows = cursor.execute("select *, coalesce(external_id, event_id::text) as id from analytics.usage_events")
        return {row["id"]: row for row in rows}


def test_a_batch_is_stored_once_however_often_it_comes(
    ingest_client: httpx.Client, postgres: psycopg.Connection
) -> None:
    batch = payloads()
    answers = [ingest_client.post(LITELLM_PATH, json=batch).json() for _ in range(2)]
    nothing = {"duplicates": 0, "conflicts": 0, "rejected": []}
    assert answers[0] == {"received": len(batch), "inserted": len(batch), **nothing}
    assert answers[1] == {"received": len(batch), "inserted": 0, **nothing, "duplicates": len(batch)}
    rows = stored(postgres)
    assert len(rows) == len(batch)
    row = rows[payload("cached_tokens")["id"]]
    assert (row["source"], row["input_tokens"], row["cache_read_tokens"], row["output_reasoning_tokens"]) == (
        "litellm",
        1000,
        800,
        20,
    )
    assert row["cost_usd"] == Decimal(str(payload("cached_tokens")["response_cost"]))
    assert rows[payload("success")["id"]]["tags"]["project"] == "apollo"


@pytest.mark.parametrize("is_gzip", [False, True])
@pytest.mark.parametrize(
    ("headers", "separator"),
    # LiteLLM calls its lines JSON, unless its configuration has another header.
    [(JSON, "\n"), (LINES, "\n"), (JSON, "\n\n"), (JSON, "\r\n")],
)
def test_lines_are_taken_under_either_name(
    ingest_client: httpx.Client,
    postgres: psycopg.Connection,
    headers: dict[str, str],
    separator: str,
    is_gzip: bool,
) -> None:
    body = separator.join(json.dumps(one) for one in payloads()).encode()
    if is_gzip:
        body, headers = gzip.compress(body), headers | {"Content-Encoding": "gzip"}
    answer = ingest_client.post(LITELLM_PATH, content=body, headers=headers).json()
    assert (answer["inserted"], answer["rejected"]) == (len(payloads()), [])
    assert len(stored(postgres)) == len(payloads())


@pytest.mark.parametrize("indent", [None, 2])
def test_a_single_payload_is_taken(
    ingest_client: httpx.Client, postgres: psycopg.Connection, indent: int | None
) -> None:
    body = json.dumps(payload("success"), indent=indent)
    assert ingest_client.post(LITELLM_PATH, content=body, headers=JSON).json()["inserted"] == 1
    assert list(stored(postgres)) == [payload("success")["id"]]


def test_a_payload_that_breaks_a_rule_is_rejected_by_its_index_and_costs_no_other(
    ingest_client: httpx.Client, postgres: psycopg.Connection
) -> None:
    over = payload("cached_tokens", prompt_tokens=10, id="over")
    batch = [payload("success"), None, {}, over, payload("stream", startTime=0), payload("failure")]
    answer = ingest_client.post(LITELLM_PATH, json=batch).json()
    assert (answer["received"], answer["inserted"]) == (6, 2)
    reasons = {one["index"]: one["reason"] for one in answer["rejected"]}
    assert list(reasons) == [1, 2, 3, 4]
    assert "as a JSON object" in reasons[1]
    assert reasons[2] == "startTime: expected a time, came none"
    assert "cache_read_tokens: expected at most input_tokens = 10" in reasons[3]
    assert "event_time: expected a time from" in reasons[4]
    assert len(stored(postgres)) == 2


def test_the_log_of_the_service_says_why_items_are_rejected(
    ingest_client: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    """LiteLLM throws the answer away."""
    over = {"prompt_tokens": 10}
    batch = [payload("success"), *(payload("cached_tokens", id=f"over-{one}", **over) for one in range(5)), {}]
    with caplog.at_level(logging.WARNING):
        assert len(ingest_client.post(LITELLM_PATH, json=batch).json()["rejected"]) == 6
    [line] = [record.getMessage() for record in caplog.records if "rejected" in record.getMessage()]
    assert line.startswith(
        f"{LITELLM_PATH}, token test: 6 of 7 items rejected. item 1: usage.cache_read_tokens: expected"
    )
    assert line.endswith("; item 6: startTime: expected a time, came none")


def test_the_same_id_with_other_content_is_a_conflict_that_is_kept_as_an_event(
    ingest_client: httpx.Client, postgres: psycopg.Connection
) -> None:
    ingest_client.post(LITELLM_PATH, json=[payload("success")])
    answer = ingest_client.post(LITELLM_PATH, json=[payload("success", model="another"), payload("stream")]).json()
    assert (answer["inserted"], answer["conflicts"]) == (1, 1)
    [(kept,)] = postgres.execute("select other_payload from ops.event_conflicts").fetchall()
    event = json.loads(bytes(kept) if isinstance(kept, bytes | memoryview) else kept)
    assert (event["model"], event["source"]) == ("another", "litellm")


def test_a_batch_larger_than_what_is_kept_between_check_and_write_is_stored_as_well(
    ingest_client: httpx.Client, postgres: psycopg.Connection
) -> None:
    tags = [f"tag-{number}:{'v' * 190}" for number in range(100)]
    batch = [payload("success", id=f"id-{number}", request_tags=tags) for number in range(300)]
    body = gzip.compress(json.dumps(batch).encode())
    answer = ingest_client.post(LITELLM_PATH, content=body, headers=JSON | {"Content-Encoding": "gzip"}).json()
    assert (answer["inserted"], answer["rejected"]) == (300, [])
    assert len(stored(postgres)["id-299"]["extra"]["request_tags"]) == 100


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        (b"", 400, "invalid-json"),
        (b"[1", 400, "invalid-json"),
        (b'{"id": }', 400, "invalid-json"),
        (b"{", 400, "invalid-json"),
        (b"3", 422, "invalid-document"),
        (b'"text"', 422, "invalid-document"),
    ],
)
def test_another_document_is_refused_as_a_whole(
    ingest_client: httpx.Client, body: bytes, status: int, kind: str
) -> None:
    expect_problem(ingest_client.post(LITELLM_PATH, content=body, headers=JSON), status, kind)


def test_more_than_a_batch_is_stored_in_portions(settings: Settings, postgres: psycopg.Connection) -> None:
    """What LiteLLM could not send for a while comes at once, and is gone for good if it is refused."""
    batch: list[Any] = payloads()
    batch[1] = batch[4] = {"id": "no time"}
    with serving(settings.model_copy(update={"max_bulk_size": 3})) as service:
        client = service.with_token(new_token(postgres))
        bodies = (
            (json.dumps(batch), JSON),
            ("\n".join(map(json.dumps, batch)), JSON),
            ("\n".join(map(json.dumps, batch)), LINES),
        )
        answers = [client.post(LITELLM_PATH, content=body, headers=headers).json() for body, headers in bodies]
    assert [answer["received"] for answer in answers] == [len(batch)] * 3
    assert [answer["inserted"] for answer in answers] == [len(batch) - 2, 0, 0]
    assert [answer["duplicates"] for answer in answers] == [0, len(batch) - 2, len(batch) - 2]
    for answer in answers:
        assert [rejection["index"] for rejection in answer["rejected"]] == [1, 4]
    assert len(stored(postgres)) == len(batch) - 2
    assert postgres.execute("select max(received) from ops.ingest_batches").fetchone() == (3,)


def test_a_request_has_a_limit_all_the_same(settings: Settings, postgres: psycopg.Connection) -> None:
    with serving(settings) as service:
        for path in (LITELLM_PATH, CLOUDEVENTS_PATH):
            assert service.client.post(path, json=[]).status_code == 401
        client = service.with_token(new_token(postgres))
        for body, headers in ((b"[" + b"0," * 50_000 + b"0]", JSON), (b"{}\n" * 50_001, LINES)):
            refused = client.post(LITELLM_PATH, content=body, headers=headers)
            assert "50000 items" in expect_problem(refused, 413, "too-many-items")
        assert client.post(LITELLM_PATH, json=[]).json()["received"] == 0
        service.client.headers["Authorization"] = f"Bearer {new_token(postgres, 'read', name='reader')}"
        for path in (LITELLM_PATH, CLOUDEVENTS_PATH):
            assert client.post(path, json=[]).status_code == 403
    assert stored(postgres) == {}


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=10,
)
PAYLOADS = st.fixed_dictionaries(
    {}, optional={name: st.just(value) | ANY for name, value in payload("cached_tokens").items()}
)


@given(items=st.lists(PAYLOADS | ANY, max_size=4), mode=st.sampled_from(["array", "lines", "one"]))
@hypothesis_settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_json_is_stored_or_refused_with_a_reason(ingest_client: httpx.Client, items: list[Any], mode: str) -> None:
    if mode == "one":
        items = [item for item in items if isinstance(item, dict)][:1]
    body = "\n".join(map(json.dumps, items)) if mode != "array" else json.dumps(items)
    response = ingest_client.post(LITELLM_PATH, content=body, headers=LINES if mode == "lines" else JSON)
    answer = response.json()
    if response.status_code != 200:
        assert response.status_code in (400, 422), answer
        assert answer["detail"]
        return
    assert answer["received"] == len(items)
    counted = sum(answer[name] for name in ("inserted", "duplicates", "conflicts"))
    assert counted + len(answer["rejected"]) == len(items)
    assert all(one["reason"] for one in answer["rejected"])
