"""Requests with millions of parts are refused, or read without what is large in them; the rest of a request counts."""

import json
import time
from collections.abc import Iterable
from typing import Any

import pytest
from opentelemetry.sdk.trace import SpanLimits

from usage_pipeline.events.ingest.json_scan import UnreadableDocument
from usage_pipeline.events.otlp import parts
from usage_pipeline.events.otlp.document import TraceRequest
from usage_pipeline.events.otlp.mapping import Rules
from usage_pipeline.events.otlp.parts import TooManyParts
from usage_pipeline.settings import load_settings
from usage_pipeline_tests.events.otlp.bombs import JSON_BOMBS, PROTOBUF_BOMBS
from usage_pipeline_tests.events.otlp.spans import CHAT, encoded, request_of

_SIZE = 200_000
# How many spans are found, and how many of them are refused; or what the whole request is refused with.
OUTCOMES: dict[tuple[bool, str], tuple[int, int] | type[Exception]] = {
    (False, "resources"): TooManyParts,
    (False, "spans"): TooManyParts,
    (False, "attributes"): (1, 1),
    (False, "attributes of many spans"): (12, 0),
    (False, "events"): TooManyParts,
    (False, "texts"): (1, 0),
    (False, "a deep value"): (1, 1),
    (False, "zeroes"): UnreadableDocument,
    (True, "resources"): TooManyParts,
    (True, "numbers"): TooManyParts,
    (True, "spans"): TooManyParts,
    (True, "attributes"): TooManyParts,
    (True, "events"): TooManyParts,
    (True, "lists"): TooManyParts,
    (True, "a text"): (1, 0),
    (True, "a text without an end"): UnreadableDocument,
    (True, "spaces"): (0, 0),
}


def look(pieces: Iterable[bytes], is_json: bool, seconds: float = 60, **settings: object) -> TraceRequest:
    rules = Rules.of(load_settings(**settings))
    return TraceRequest(b"".join(pieces), is_json=is_json, rules=rules, deadline=time.monotonic() + seconds)


@pytest.mark.parametrize(("is_json", "kind"), OUTCOMES)
@pytest.mark.parametrize("keeps_content", [False, True])
def test_a_bomb_is_refused_as_a_whole_or_alone(
    monkeypatch: pytest.MonkeyPatch, is_json: bool, kind: str, keeps_content: bool
) -> None:
    monkeypatch.setattr(parts, "MOST_PARTS", 50_000)
    pieces = (JSON_BOMBS if is_json else PROTOBUF_BOMBS)[kind](_SIZE)
    outcome = OUTCOMES[is_json, kind]
    if isinstance(outcome, tuple):
        traces = look(pieces, is_json, otlp_keep_content=keeps_content)
        assert (len(traces), traces.refusals.number) == outcome
    else:
        with pytest.raises(outcome):
            look(pieces, is_json)


def test_every_bomb_has_an_outcome() -> None:
    assert {(False, kind) for kind in PROTOBUF_BOMBS} | {(True, kind) for kind in JSON_BOMBS} == OUTCOMES.keys()


@pytest.mark.parametrize("is_json", [False, True])
def test_after_the_deadline_nobody_looks_further(is_json: bool) -> None:
    request = encoded(request_of(*[CHAT] * 2_000), is_json)
    with pytest.raises(TimeoutError):
        look([request], is_json, seconds=-1)


@pytest.mark.parametrize("is_json", [False, True])
def test_events_that_are_not_kept_are_made_again(monkeypatch: pytest.MonkeyPatch, is_json: bool) -> None:
    request = encoded(request_of(*[CHAT] * 30), is_json)
    kept = [event for batch in look([request], is_json).batches(7) for event in batch]
    monkeypatch.setattr("usage_pipeline.events.otlp.document.KEPT_BYTES", 1_000)
    assert [event for batch in look([request], is_json).batches(7) for event in batch] == kept
    assert len({json.loads(event)["event_id"] for event in kept}) == 30


@pytest.mark.parametrize("is_json", [False, True])
@pytest.mark.parametrize(("number", "refused"), [(9_990, 0), (10_010, 1)])
def test_a_span_of_too_many_attributes_is_refused_alone(is_json: bool, number: int, refused: int) -> None:
    many: dict[str, Any] = {f"attribute {at}": "x" for at in range(number)}
    request = request_of(CHAT)
    request.MergeFrom(request_of({**many, **CHAT}, limits=SpanLimits(max_attributes=20_000)))
    traces = look([encoded(request, is_json)], is_json)
    assert (len(traces), traces.refusals.number) == (2, refused)
    assert sum(len(batch) for batch in traces.batches(10)) == 2 - refused


@pytest.mark.parametrize("is_json", [False, True])
def test_content_beyond_the_limit_is_told_and_the_event_counts(monkeypatch: pytest.MonkeyPatch, is_json: bool) -> None:
    monkeypatch.setattr(parts, "MOST_CONTENT_BYTES", 50_000)
    texts = {f"gen_ai.prompt.{number}.content": "x" * 20_000 for number in range(3)}
    request = encoded(request_of({**CHAT, **texts}, {**CHAT, "gen_ai.prompt": "x" * 20_000}), is_json)
    traces = look([request], is_json, otlp_keep_content=True)
    [batch] = traces.batches(10)
    assert [json.loads(event)["input_tokens"] for event in batch] == [900, 900]
    [[archive]] = batch.archives(2**20, without=set())
    assert len(json.loads(archive)["prompt_full"]) == 20_000
    assert (traces.unkept.number, "at most 50000 bytes" in traces.unkept.reasons[0]) == (1, True)


@pytest.mark.parametrize("is_json", [False, True])
def test_spans_beyond_the_limit_refuse_the_request(monkeypatch: pytest.MonkeyPatch, is_json: bool) -> None:
    monkeypatch.setattr("usage_pipeline.events.otlp.places.MOST_SPANS", 3)
    assert len(look([encoded(request_of(*[CHAT] * 3), is_json)], is_json)) == 3
    with pytest.raises(TooManyParts, match="at most 3 spans"):
        look([encoded(request_of(*[CHAT] * 4), is_json)], is_json)
