"""Spans that real instrumentations made of the same five requests: a chat, a failure, an embedding, a response, a message.

Recorded with openai 3.57.0, anthropic 2.14.0, opentelemetry-instrumentation-openai and -anthropic 0.62.4 (OpenLLMetry), and
with openinference-instrumentation-openai 0.1.66 and -anthropic 3.1.0. A local server answered: 900 prompt tokens, of which 500
cached, and 120 completion tokens, of which 60 reasoning; 8 tokens embedded; as Anthropic 5 input tokens, 1,000 of cache read,
200 of cache creation, and 50 output tokens.
"""

import json
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from usage_pipeline.events.ingest.model import EventWindow, parse_event
from usage_pipeline.events.otlp.document import TraceRequest
from usage_pipeline.events.otlp.mapping import Rules
from usage_pipeline.settings import load_settings

RECORDED = Path(__file__).parent / "recorded"
OPENAI = ("openai", "gpt-4o-2024-08-06", 900, 120, {"cache_read_tokens": 500, "output_reasoning_tokens": 60})
EXPECTED: list[tuple[Any, ...]] = [
    OPENAI,
    ("openai", "text-embedding-3-small", 8, None, {}),
    OPENAI,
    ("anthropic", "claude-sonnet-4-5-20250929", 1_205, 50, {"cache_read_tokens": 1_000, "cache_write_tokens": 200}),
]


@pytest.mark.parametrize("name", ["openllmetry", "openinference"])
def test_what_instrumentations_tell_is_what_the_provider_answered(name: str) -> None:
    document = (RECORDED / f"{name}.json").read_bytes()
    rules = Rules.of(load_settings())
    traces = TraceRequest(document, is_json=True, rules=rules, deadline=time.monotonic() + 60)
    assert (len(traces), traces.refusals.number, traces.unknown) == (5, 0, 0)
    [batch] = traces.batches(10)
    chat, failed, *others = (json.loads(event) for event in batch)
    assert failed["error_type"].endswith("RateLimitError")
    assert [told(event) for event in (chat, *others)] == EXPECTED
    for event in (chat, failed, *others):
        at = datetime.fromisoformat(event["event_time"])
        window = EventWindow(at - timedelta(days=1), at + timedelta(days=1), "test")
        parse_event(json.dumps(event).encode(), window, "otlp")


def told(event: dict[str, Any]) -> tuple[Any, ...]:
    """Who answered, and all counts that are not 0."""
    usage = {unit: count for unit, count in event.get("usage", {}).items() if count}
    return event["provider"], event["model"], event.get("input_tokens"), event.get("output_tokens"), usage
