"""The OpenAPI part for bodies of other formats: only what counts is in their schemas, everything else may be there as well."""

from typing import Any

from usage_pipeline.api.ingest.openapi import GZIP_HEADER, LIMITS, LINES, item_schema
from usage_pipeline.events.ingest.batches import EVENTS

_TEXT = {"type": ["string", "null"]}
_COUNT = {"type": ["integer", "null"], "minimum": 0}
_PAYLOAD = {
    "id": "chatcmpl-9f3k2",
    "status": "success",
    "call_type": "acompletion",
    "custom_llm_provider": "openai",
    "model": "gpt-4o",
    "startTime": 1_795_974_307.88,
    "endTime": 1_795_974_309.13,
    "prompt_tokens": 1_000,
    "completion_tokens": 50,
    "total_tokens": 1_050,
    "response_cost": 0.002,
    "end_user": "user-1",
    "request_tags": ["project:apollo"],
    "metadata": {
        "user_api_key_hash": "88dc28d0f030c55ed4ab77ed8faf098196cb1c05df778539800c9f1243fe6b4b",
        "user_api_key_alias": "chat",
        "user_api_key_team_alias": "search",
        "usage_object": {
            "prompt_tokens": 1_000,
            "completion_tokens": 50,
            "total_tokens": 1_050,
            "prompt_tokens_details": {"cached_tokens": 800},
        },
    },
}
_DATA = {
    "user_id": "user-1",
    "team": "search",
    "service": "chat",
    "provider": "openai",
    "model": "gpt-4o",
    "input_tokens": 100,
    "output_tokens": 20,
}
_CLOUDEVENT = {
    "specversion": "1.0",
    "id": "A234-1234-1234",
    "source": "/gateways/eu-1",
    "type": "com.example.llm.request",
    "time": "2026-11-20T12:00:00Z",
    "data": _DATA,
}


def litellm_body() -> dict[str, Any]:
    """The part of an operation that describes what LiteLLM's generic API callback sends."""
    payload = {
        "type": "object",
        "description": "A StandardLoggingPayload. Its other members may be there, and are not stored",
        "properties": {
            "id": {"type": "string", "description": "Of the request; unique with the source `litellm`"},
            "status": {"type": "string", "enum": ["success", "failure"]},
            "startTime": {"type": "number", "description": "Seconds since 1970"},
            "endTime": {"type": "number"},
            "custom_llm_provider": _TEXT,
            "model": _TEXT,
            "prompt_tokens": _COUNT,
            "completion_tokens": _COUNT,
            "total_tokens": _COUNT,
            "response_cost": {"type": ["number", "null"], "description": "Becomes the reported cost"},
            "end_user": _TEXT,
            "request_tags": {"type": ["array", "null"], "items": {"type": "string"}},
            "metadata": {"type": ["object", "null"]},
        },
        "required": ["id", "startTime"],
    }
    array = {"type": "array", "items": payload}
    return {
        "requestBody": {
            "required": True,
            "description": f"A JSON array of payloads, or a single one. {LINES} {LIMITS}",
            "content": {
                "application/json": {
                    "schema": {"anyOf": [array, payload]},
                    "examples": {
                        "array": {"summary": "A batch", "value": [_PAYLOAD]},
                        "single": {"summary": "A single payload", "value": _PAYLOAD},
                    },
                }
            },
        },
        "parameters": [GZIP_HEADER],
    }


def cloudevents_body() -> dict[str, Any]:
    """The same for CloudEvents in the three modes of HTTP."""
    event = item_schema(EVENTS)
    # The envelope has the id and may have the time; what a sender may not know is `unknown`.
    data = {**event, "required": ["provider", "model"]}
    text = {"type": "string", "minLength": 1}
    envelope = {
        "type": "object",
        "description": "A CloudEvent. Extensions may be there, and are not stored",
        "properties": {
            "specversion": {"type": "string", "enum": ["1.0"]},
            "id": text,
            "source": text,
            "type": text,
            "time": {"type": "string", "format": "date-time"},
            "datacontenttype": {"type": "string"},
            "data": data,
            "data_base64": {"type": "string"},
        },
        "required": ["specversion", "id", "source", "type"],
    }
    return {
        "requestBody": {
            "required": True,
            "description": f"A CloudEvent, a batch of them, or with headers `ce-…` the data alone. {LIMITS}",
            "content": {
                "application/cloudevents+json": {"schema": envelope, "example": _CLOUDEVENT},
                "application/cloudevents-batch+json": {
                    "schema": {"type": "array", "items": envelope},
                    "example": [_CLOUDEVENT],
                },
                "application/json": {"schema": data, "example": _DATA},
            },
        },
        "parameters": [
            GZIP_HEADER,
            *(
                {
                    "name": f"ce-{name}",
                    "in": "header",
                    "required": False,
                    "description": "Of a binary CloudEvent, with `application/json`",
                    "schema": {"type": "string"},
                }
                for name in ("specversion", "id", "source", "type", "time")
            ),
        ],
    }
