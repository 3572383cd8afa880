"""Spans as instrumentations make them, by OpenTelemetry's SDK, and as requests of OTLP in both encodings."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.json_format import MessageToDict
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Tracer

TRACES_PATH = "/v1/traces"
PROTOBUF = "application/x-protobuf"
SERVICE = {"service.name": "assistant", "service.namespace": "search"}
# One call by the current conventions.
CHAT: Mapping[str, Any] = {
    "gen_ai.operation.name": "chat",
    "gen_ai.provider.name": "openai",
    "gen_ai.request.model": "gpt-4o",
    "gen_ai.response.model": "gpt-4o-2024-08-06",
    "gen_ai.usage.input_tokens": 900,
    "gen_ai.usage.output_tokens": 120,
    "enduser.id": "user-1",
}


@dataclass
class Recorded:
    """What a tracer recorded in the block."""

    tracer: Tracer
    spans: Sequence[ReadableSpan] = field(default_factory=list)


@contextmanager
def tracing(resource: Mapping[str, Any] | None = None, limits: SpanLimits | None = None) -> Iterator[Recorded]:
    """A tracer of the SDK; its spans are there after the block."""
    memory = InMemorySpanExporter()
    with provider_of(memory, resource, limits) as provider:
        recorded = Recorded(provider.get_tracer("tests"))
        yield recorded
    recorded.spans = memory.get_finished_spans()


@contextmanager
def provider_of(
    exporter: SpanExporter, resource: Mapping[str, Any] | None = None, limits: SpanLimits | None = None
) -> Iterator[TracerProvider]:
    """The SDK's provider with an exporter that gets each span at its end."""
    of = Resource(SERVICE if resource is None else resource)
    provider = TracerProvider(resource=of, shutdown_on_exit=False, span_limits=limits)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    try:
        yield provider
    finally:
        provider.shutdown()


def spans_of(
    *attributes: Mapping[str, Any], resource: Mapping[str, Any] | None = None, limits: SpanLimits | None = None
) -> Sequence[ReadableSpan]:
    """A span with each of these attributes."""
    with tracing(resource, limits) as recorded:
        for one in attributes:
            recorded.tracer.start_span("span", attributes=one).end()
    return recorded.spans


def request_of(
    *attributes: Mapping[str, Any], resource: Mapping[str, Any] | None = None, limits: SpanLimits | None = None
) -> ExportTraceServiceRequest:
    """The request of an exporter for such spans."""
    return encode_spans(spans_of(*attributes, resource=resource, limits=limits))


def as_json(request: ExportTraceServiceRequest) -> bytes:
    """The same as JSON. The protocol has ids in hexadecimal digits, where protobuf's own JSON has them in base64."""
    whole = MessageToDict(request)
    for one, resource in zip(whole.get("resourceSpans", []), request.resource_spans, strict=True):
        for two, scope in zip(one.get("scopeSpans", []), resource.scope_spans, strict=True):
            for three, span in zip(two.get("spans", []), scope.spans, strict=True):
                three |= {"traceId": span.trace_id.hex(), "spanId": span.span_id.hex()}
                three.pop("parentSpanId", None)
    return json.dumps(whole).encode()


def encoded(request: ExportTraceServiceRequest, is_json: bool) -> bytes:
    return as_json(request) if is_json else request.SerializeToString()
