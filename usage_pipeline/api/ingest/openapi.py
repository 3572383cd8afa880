"""The OpenAPI part for bodies of bulk requests: their shapes, gzip, limits, examples. The members come from the model."""

from http import HTTPStatus
from typing import Any

import msgspec

from usage_pipeline.api.ingest.bodies import JSON_LINES
from usage_pipeline.events.ingest.batches import EVENTS, Kind
from usage_pipeline.events.ingest.model import MessageArchive, UsageEvent
from usage_pipeline.values import MAX_ID_CHARACTERS

_EVENT = {
    "event_id": "0f0e1c2a-6f2b-4b7e-9d5c-3a1f5b8e7c11",
    "event_time": "2026-11-20T12:00:00Z",
    "user_id": "user-1",
    "team": "search",
    "service": "chat",
    "provider": "openai",
    "model": "gpt-4o",
    "input_tokens": 100,
    "output_tokens": 20,
    "latency_ms": 350,
    "status_code": 200,
}
_EVENT_WITH_UNITS = {
    "event_id": "chatcmpl-9f3k2",
    "source": "gateway-1",
    "event_time": "2026-11-20T12:00:00Z",
    "user_id": "user-1",
    "team": "search",
    "service": "chat",
    "provider": "openai",
    "model": "gpt-4o",
    "input_tokens": 10_000,
    "output_tokens": 500,
    "usage": {"cache_read_tokens": 9_000, "web_searches": 1},
    "service_tier": "batch",
    "cost_usd": "0.0042",
    "api_key_id": "key-1",
    "tags": {"project": "apollo"},
}
_EVENT_OF_PROVIDER = {
    "event_id": "msg_01XFDUDYJgAACzvnptvVoYEL",
    "event_time": "2026-11-20T12:00:00Z",
    "user_id": "user-1",
    "team": "search",
    "service": "chat",
    "provider": "anthropic",
    "model": "claude-sonnet-4-5",
    "provider_usage": {
        "input_tokens": 5,
        "cache_read_input_tokens": 128_000,
        "cache_creation_input_tokens": 1_200,
        "output_tokens": 500,
    },
}
_TRACES = {
    "resourceSpans": [
        {
            "resource": {"attributes": [{"key": "service.name", "value": {"stringValue": "chat"}}]},
            "scopeSpans": [
                {
                    "spans": [
                        {
                            "traceId": "5b8efff798038103d269b633813fc60c",
                            "spanId": "eee19b7ec3c1b174",
                            "name": "chat gpt-4o",
                            "startTimeUnixNano": "1795176000000000000",
                            "endTimeUnixNano": "1795176000850000000",
                            "attributes": [
                                {"key": "gen_ai.operation.name", "value": {"stringValue": "chat"}},
                                {"key": "gen_ai.provider.name", "value": {"stringValue": "openai"}},
                                {"key": "gen_ai.request.model", "value": {"stringValue": "gpt-4o"}},
                                {"key": "gen_ai.usage.input_tokens", "value": {"intValue": "900"}},
                                {"key": "gen_ai.usage.output_tokens", "value": {"intValue": "120"}},
                            ],
                        }
                    ]
                }
            ],
        }
    ]
}
_ARCHIVE = {
    "event_id": _EVENT["event_id"],
    "user_id": "user-1",
    "service": "chat",
    "prompt_full": "What is a ledger?",
    "response_full": "A book of accounts.",
}
# No media type of `content`: programs that try a service by its document cannot write lines.
LINES = f"With `Content-Type: {JSON_LINES[0]}` (or `{JSON_LINES[1]}`) it is one item a line."
LIMITS = (
    "At most MAX_BULK_SIZE items (1,000 unless the server says otherwise) and MAX_GZIP_SIZE bytes as sent (10,485,760), "
    "20 times as many once decompressed. Large requests wait for each other. With `Content-Encoding: gzip` the body is gzip."
)
GZIP_HEADER: dict[str, Any] = {
    "name": "Content-Encoding",
    "in": "header",
    "required": False,
    "description": "gzip when the body is compressed",
    "schema": {"type": "string", "enum": ["gzip", "identity"]},
}


def request_body(kind: Kind) -> dict[str, Any]:
    """The part of an operation that describes its body and the header for gzip."""
    example = _EVENT if kind is EVENTS else _ARCHIVE
    more: dict[str, Any] = {}
    if kind is EVENTS:
        more = {
            "units": {"summary": "Cached tokens, a tier, what was charged", "value": [_EVENT_WITH_UNITS]},
            "provider": {"summary": "The provider's own usage object", "value": [_EVENT_OF_PROVIDER]},
        }
    return _body(kind.name, item_schema(kind), [example], more)


def corrections_body(most_reason_characters: int) -> dict[str, Any]:
    """The same for corrections of usage events."""
    name = {"type": "string", "minLength": 1, "maxLength": MAX_ID_CHARACTERS}
    item = {
        "type": "object",
        "properties": {
            "action": {"type": "string", "enum": ["void", "replace"]},
            "reason": {"type": "string", "minLength": 1, "maxLength": most_reason_characters},
            "event_id": {**name, "description": "A UUID, or the id that the source gave. The event has it, too"},
            "source": {
                **name,
                "description": "Who gave the id, where it is no UUID; without one: the name of the token",
            },
            "event": {**item_schema(EVENTS), "description": "The event as it should be, for the action replace"},
        },
        "required": ["action", "reason"],
        "additionalProperties": False,
    }
    void = {"action": "void", "event_id": _EVENT["event_id"], "reason": "Sent by a load test"}
    replace = {"action": "replace", "event": _EVENT, "reason": "The client counted characters as tokens"}
    return _body("corrections", item, [void, replace], {})


def otlp_body() -> dict[str, Any]:
    """The same for traces of OpenTelemetry."""
    attribute = {"type": "object", "properties": {"key": {"type": "string"}, "value": {"type": "object"}}}
    attributes = {"type": "array", "items": attribute}
    span = {
        "type": "object",
        "properties": {
            "traceId": {"type": "string", "description": "32 hexadecimal digits"},
            "spanId": {"type": "string", "description": "16 hexadecimal digits"},
            "name": {"type": "string"},
            "startTimeUnixNano": {"type": "string", "description": "Nanoseconds since 1970"},
            "endTimeUnixNano": {"type": "string"},
            "attributes": attributes,
        },
    }
    scope_spans = {"type": "object", "properties": {"spans": {"type": "array", "items": span}}}
    resource_spans = {
        "type": "object",
        "properties": {
            "resource": {"type": "object", "properties": {"attributes": attributes}},
            "scopeSpans": {"type": "array", "items": scope_spans},
        },
    }
    request = {"type": "object", "properties": {"resourceSpans": {"type": "array", "items": resource_spans}}}
    body = {
        "required": True,
        "description": "An ExportTraceServiceRequest of the OpenTelemetry protocol, of up to 100,000 spans. "
        "At most MAX_GZIP_SIZE bytes as sent (10,485,760), 20 times as many once decompressed.",
        "content": {
            "application/x-protobuf": {"schema": {"type": "string", "format": "binary"}},
            "application/json": {"schema": request, "example": _TRACES},
        },
    }
    return {"requestBody": body, "parameters": [GZIP_HEADER]}


def otlp_responses() -> dict[int | str, dict[str, Any]]:
    """The answers of OTLP: its response, or google.rpc.Status, in the encoding of the request."""
    binary = {"schema": {"type": "string", "format": "binary"}}
    partial = {
        "type": "object",
        "properties": {
            "rejectedSpans": {"type": "string", "description": "How many spans are not stored, which should be"},
            "errorMessage": {"type": "string", "description": "The first reasons, or a hint"},
        },
    }
    answer = {"type": "object", "properties": {"partialSuccess": partial}, "additionalProperties": False}
    refusal = {
        "type": "object",
        "properties": {"code": {"type": "integer"}, "message": {"type": "string"}},
        "required": ["code", "message"],
    }
    taken = {
        "description": "Stored; `partialSuccess` tells of spans that are not",
        "content": {"application/json": {"schema": answer}, "application/x-protobuf": binary},
    }
    refused: dict[int | str, dict[str, Any]] = {
        status: {
            "description": f"{HTTPStatus(status).phrase}, as google.rpc.Status",
            "content": {"application/json": {"schema": refusal}, "application/x-protobuf": binary},
        }
        for status in (400, 401, 403, 413, 415, 429, 503)
    }
    return {200: taken, **refused}


def _body(
    member: str, item: dict[str, Any], examples: list[dict[str, Any]], more_examples: dict[str, Any]
) -> dict[str, Any]:
    array = {"type": "array", "items": item}
    wrapped = {
        "type": "object",
        "properties": {member: array},
        "required": [member],
        "additionalProperties": False,
    }
    shown = {
        "array": {"summary": "An array", "value": examples},
        "object": {"summary": "An object", "value": {member: examples}},
        "single": {"summary": "A single item", "value": examples[0]},
        **more_examples,
    }
    return {
        "requestBody": {
            "required": True,
            "description": f'A JSON array of items, `{{"{member}": […]}}`, or a single item. {LINES} {LIMITS}',
            "content": {"application/json": {"schema": {"anyOf": [array, wrapped, item]}, "examples": shown}},
        },
        "parameters": [GZIP_HEADER],
    }


def item_schema(kind: Kind) -> dict[str, Any]:
    """The JSON schema of one item, without references."""
    model = UsageEvent if kind is EVENTS else MessageArchive
    (_, schemas) = msgspec.json.schema_components([model], ref_template="{name}")
    schema: dict[str, Any] = schemas[model.__name__]
    return schema
