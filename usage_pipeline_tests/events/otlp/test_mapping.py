"""What spans of each dialect mean as events, in both encodings. What they should mean: contracts §8 and §9."""

import json
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.trace import Status, StatusCode

from usage_pipeline.events.ingest.model import EventWindow, parse_event
from usage_pipeline.events.otlp.document import TraceRequest
from usage_pipeline.events.otlp.mapping import Rules
from usage_pipeline.settings import Settings, load_settings
from usage_pipeline.values import Malformed
from usage_pipeline_tests.events.otlp.spans import CHAT, encoded, request_of, tracing

ENCODINGS = pytest.mark.parametrize("is_json", [False, True], ids=["protobuf", "json"])
OPENLLMETRY_OLD = {
    "llm.request.type": "chat",
    "gen_ai.system": "Anthropic",
    "gen_ai.request.model": "claude-sonnet-4-5",
    "gen_ai.response.model": "claude-sonnet-4-5-20250929",
    "gen_ai.usage.prompt_tokens": 1_300,
    "gen_ai.usage.completion_tokens": 50,
    "llm.usage.total_tokens": 1_350,
    "gen_ai.usage.cache_read_input_tokens": 1_000,
    "gen_ai.usage.cache_creation_input_tokens": 200,
}
OPENINFERENCE = {
    "openinference.span.kind": "LLM",
    "llm.provider": "google",
    "llm.model_name": "gemini-2.5-flash",
    "llm.token_count.prompt": 700,
    "llm.token_count.completion": 80,
    "llm.token_count.total": 780,
    "llm.token_count.prompt_details.cache_read": 300,
    "llm.token_count.prompt_details.audio": 40,
    "llm.token_count.completion_details.reasoning": 30,
    "user.id": "user-2",
}
CURRENT = {
    **CHAT,
    "gen_ai.usage.cache_read.input_tokens": 500,
    "gen_ai.usage.cache_write.input_tokens": 100,
    "gen_ai.usage.reasoning.output_tokens": 60,
    "gen_ai.usage.image.input_tokens": 20,
    "gen_ai.usage.audio.output_tokens": 10,
    "gen_ai.response.time_to_first_chunk": 0.25,
    "openai.response.service_tier": "flex",
}


def look(request: ExportTraceServiceRequest, is_json: bool, settings: Settings | None = None) -> TraceRequest:
    rules = Rules.of(settings or load_settings())
    return TraceRequest(encoded(request, is_json), is_json=is_json, rules=rules, deadline=time.monotonic() + 60)


def events_in(
    request: ExportTraceServiceRequest, is_json: bool, settings: Settings | None = None
) -> list[dict[str, Any]]:
    traces = look(request, is_json, settings)
    assert traces.refusals.reasons == []
    return [json.loads(event) for batch in traces.batches(1_000) for event in batch]


def event_of(attributes: Mapping[str, Any], is_json: bool, resource: Mapping[str, Any] | None = None) -> dict[str, Any]:
    [event] = events_in(request_of(attributes, resource=resource), is_json)
    return event


@ENCODINGS
@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        (
            CURRENT,
            {
                "provider": "openai",
                "model": "gpt-4o-2024-08-06",
                "input_tokens": 900,
                "output_tokens": 120,
                "usage": {
                    "cache_read_tokens": 500,
                    "cache_write_tokens": 100,
                    "output_reasoning_tokens": 60,
                    "input_image_tokens": 20,
                    "output_audio_tokens": 10,
                },
                "extra": {"time_to_first_chunk_ms": 250},
                "service_tier": "flex",
                "user_id": "user-1",
            },
        ),
        (
            OPENLLMETRY_OLD,
            {
                "provider": "anthropic",
                "model": "claude-sonnet-4-5-20250929",
                "input_tokens": 1_300,
                "output_tokens": 50,
                "total_tokens": 1_350,
                "usage": {"cache_read_tokens": 1_000, "cache_write_tokens": 200},
                "user_id": "unknown",
            },
        ),
        (
            OPENINFERENCE,
            {
                "provider": "google",
                "model": "gemini-2.5-flash",
                "input_tokens": 700,
                "output_tokens": 80,
                "total_tokens": 780,
                "usage": {"cache_read_tokens": 300, "output_reasoning_tokens": 30, "input_audio_tokens": 40},
                "user_id": "user-2",
            },
        ),
    ],
    ids=["current", "OpenLLMetry", "OpenInference"],
)
def test_each_dialect_has_the_same_members(
    attributes: Mapping[str, Any], expected: Mapping[str, Any], is_json: bool
) -> None:
    event = event_of(attributes, is_json)
    assert {name: event[name] for name in expected} == expected
    assert (event["source"], event["team"], event["service"]) == ("otlp", "search", "assistant")
    trace_id, _, span_id = event["event_id"].partition("/")
    assert (len(trace_id), len(span_id)) == (32, 16)


@ENCODINGS
@pytest.mark.parametrize(
    ("name", "value", "counts"),
    [
        *(
            ("gen_ai.operation.name", value, True)
            for value in ("chat", "text_completion", "generate_content", "embeddings")
        ),
        *(
            ("gen_ai.operation.name", value, False)
            for value in ("invoke_agent", "execute_tool", "invoke_workflow", "plan")
        ),
        *(("openinference.span.kind", value, True) for value in ("LLM", "EMBEDDING")),
        *(("openinference.span.kind", value, False) for value in ("AGENT", "CHAIN", "TOOL", "RETRIEVER")),
        *(("llm.request.type", value, True) for value in ("chat", "completion", "embedding")),
        ("traceloop.span.kind", "workflow", False),
        ("http.request.method", "POST", False),
    ],
)
def test_only_calls_of_a_model_count(name: str, value: str, counts: bool, is_json: bool) -> None:
    plain = {key: one for key, one in CHAT.items() if key != "gen_ai.operation.name"}
    assert len(events_in(request_of({**plain, name: value}), is_json)) == counts


@ENCODINGS
def test_tokens_of_a_span_that_does_not_say_what_it_is_are_told(is_json: bool) -> None:
    plain = {key: one for key, one in CHAT.items() if key != "gen_ai.operation.name"}
    agent = {**CHAT, "gen_ai.operation.name": "invoke_agent"}
    custom = {**CHAT, "gen_ai.operation.name": "responses"}
    traces = look(request_of(plain, agent, custom, {"traceloop.span.kind": "task", **plain}, CHAT), is_json)
    assert (len(traces), traces.unknown) == (5, 2)


@ENCODINGS
def test_a_failed_call_has_its_error(is_json: bool) -> None:
    with tracing() as recorded:
        told = recorded.tracer.start_span("a", attributes={**CHAT, "error.type": "429"})
        told.set_status(Status(StatusCode.ERROR, "slow down"))
        told.end()
        raised = recorded.tracer.start_span("b", attributes={**CHAT, "http.response.status_code": 503})
        raised.record_exception(TimeoutError("no answer"))
        raised.set_status(Status(StatusCode.ERROR))
        raised.end()
        untold = recorded.tracer.start_span("c", attributes=CHAT)
        untold.set_status(Status(StatusCode.ERROR))
        untold.end()
        recorded.tracer.start_span("d", attributes=CHAT).end()
    events = events_in(encode_spans(recorded.spans), is_json)
    assert [(event.get("error_type"), event.get("status_code")) for event in events] == [
        ("429", 429),
        ("TimeoutError", 503),
        ("_OTHER", None),
        (None, None),
    ]


@ENCODINGS
def test_time_and_duration_are_those_of_the_span(is_json: bool) -> None:
    with tracing() as recorded:
        span = recorded.tracer.start_span("chat", attributes=CHAT, start_time=1_790_000_000_123_456_789)
        span.end(end_time=1_790_000_001_000_000_000)
    [event] = events_in(encode_spans(recorded.spans), is_json)
    assert (event["event_time"], event["latency_ms"]) == ("2026-09-21T14:13:20.123456Z", 877)


@ENCODINGS
def test_who_it_was_comes_from_the_span_or_its_resource_by_the_settings(is_json: bool) -> None:
    settings = load_settings(
        otlp_team_attributes="cost.center, team", otlp_user_attributes="user.email", otlp_service_attributes="app"
    )
    resource = {"team": "of the resource", "app": 7, "service.name": "x"}
    request = request_of({**CHAT, "cost.center": "of the span"}, {**CHAT, "user.email": "a" * 201}, resource=resource)
    first, second = events_in(request, is_json, settings)
    assert (first["team"], first["service"], first["user_id"]) == ("of the span", "7", "unknown")
    assert (second["team"], second["service"], second["user_id"]) == ("of the resource", "7", "unknown")


@ENCODINGS
def test_nothing_but_the_call_is_needed(is_json: bool) -> None:
    event = event_of({"gen_ai.operation.name": "chat"}, is_json, resource={})
    found = [event[name] for name in ("user_id", "team", "service", "provider", "model")]
    assert found == ["unknown"] * 5
    assert not event.keys() & {"input_tokens", "output_tokens", "total_tokens", "usage", "extra", "prompt"}


@ENCODINGS
@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ("azure.ai.openai", "azure"),
        ("aws.bedrock", "aws"),
        ("gcp.vertex_ai", "google"),
        ("x_ai", "x-ai"),
        ("Own", "own"),
    ],
)
def test_providers_have_the_names_of_the_price_package(given: str, stored: str, is_json: bool) -> None:
    assert event_of({**CHAT, "gen_ai.provider.name": given}, is_json)["provider"] == stored


@ENCODINGS
def test_a_large_span_is_read_without_its_texts(is_json: bool) -> None:
    texts = {f"gen_ai.prompt.{number}.content": '"{[' * 5_000 for number in range(20)}
    with tracing() as recorded:
        span = recorded.tracer.start_span("chat", attributes={**texts, **CHAT})
        span.record_exception(ValueError("x" * 20_000))
        span.set_status(Status(StatusCode.ERROR))
        span.end()
    request = encode_spans(recorded.spans)
    assert request.ByteSize() > 100_000
    [event] = events_in(request, is_json)
    assert (event["input_tokens"], event["error_type"], event["team"]) == (900, "ValueError", "search")


def test_half_a_character_in_a_prompt_does_no_harm_in_json() -> None:
    document = encoded(request_of({**CHAT, "gen_ai.input.messages": "xHALFx"}), True).replace(b"HALF", rb"\ud83d")
    rules = Rules.of(load_settings(otlp_keep_content=True))
    traces = TraceRequest(document, is_json=True, rules=rules, deadline=time.monotonic() + 60)
    [batch] = traces.batches(10)
    assert [json.loads(event)["input_tokens"] for event in batch] == [900]
    assert list(batch.archives(2**20, without=set())) == []
    assert traces.unkept.number == 1


@ENCODINGS
def test_structures_are_content_and_nothing_else(is_json: bool) -> None:
    request = request_of({**CHAT, "gen_ai.response.finish_reasons": ["stop"], "team": ["a", "b"]})
    [messages] = request_of({"gen_ai.input.messages": "?"}).resource_spans[0].scope_spans[0].spans[0].attributes
    said = messages.value.array_value.values.add().kvlist_value.values.add(key="content")
    said.value.string_value = "hello"
    request.resource_spans[0].scope_spans[0].spans[0].attributes.append(messages)
    traces = look(request, is_json, load_settings(otlp_keep_content=True))
    [batch] = traces.batches(10)
    assert [json.loads(event)["team"] for event in batch] == ["search"]
    [[archive]] = batch.archives(2**20, without=set())
    assert "hello" in json.loads(archive)["prompt_full"]
    assert json.loads(json.loads(archive)["prompt_full"])


@ENCODINGS
@pytest.mark.parametrize("value", ["many", True, [1, 2], float("nan")])
def test_a_count_that_is_no_number_is_refused_with_its_reason(is_json: bool, value: Any) -> None:
    event = event_of({**CHAT, "gen_ai.usage.input_tokens": value}, is_json)
    with pytest.raises(Malformed, match="input_tokens"):
        parse_event(json.dumps(event).encode(), EventWindow.around(datetime.now(UTC), load_settings()), "otlp")


@ENCODINGS
def test_a_span_without_a_valid_id_is_refused_alone(is_json: bool) -> None:
    request = request_of(CHAT, CHAT, CHAT)
    spans = request.resource_spans[0].scope_spans[0].spans
    spans[0].trace_id = bytes(16)
    spans[2].span_id = b"short"
    traces = look(request, is_json)
    assert [len(batch) for batch in traces.batches(10)] == [1]
    assert traces.refusals.number == 2
    assert "trace id: expected 16 bytes that are not all zero" in traces.refusals.reasons[0]
    assert "span id: expected 8 bytes that are not all zero" in traces.refusals.reasons[1]


@ENCODINGS
def test_spans_of_several_resources_have_their_own_service(is_json: bool) -> None:
    request = request_of(CHAT, resource={"service.name": "a"})
    request.MergeFrom(request_of({"plain": 1}, resource={"service.name": "b"}))
    request.MergeFrom(request_of(CHAT, CHAT, resource={"service.name": "c"}))
    assert [event["service"] for event in events_in(request, is_json)] == ["a", "c", "c"]


@ENCODINGS
def test_prompts_and_answers_are_kept_on_demand_alone(is_json: bool) -> None:
    structured = {**CHAT, "gen_ai.input.messages": '[{"role": "user"}]', "gen_ai.output.messages": "an\0swer"}
    in_parts = {**CHAT, "gen_ai.prompt.0.content": "hello", "gen_ai.prompt.0.role": "user"}
    request = request_of(structured, in_parts, CHAT)
    traces = look(request, is_json, load_settings(otlp_keep_content=True))
    [batch] = traces.batches(10)
    assert not any(b"hello" in event or b"role" in event for event in batch)
    [archives] = batch.archives(2**20, without=set())
    found = [json.loads(archive) for archive in archives]
    assert [one["event_id"] for one in found] == [json.loads(event)["event_id"] for event in batch][:2]
    assert (found[0]["prompt_full"], found[0]["response_full"]) == ('[{"role": "user"}]', "an\ufffdswer")
    assert json.loads(found[1]["prompt_full"]) == {"gen_ai.prompt.0.content": "hello", "gen_ai.prompt.0.role": "user"}
    assert (found[1]["response_full"], found[1]["user_id"]) == (None, "user-1")
