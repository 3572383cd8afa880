"""Usage events of the calls in a real trace, for the demo and tests. The same seed makes the same events."""

import random
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from usage_pipeline.local.traffic.counters import DAY_MS, TraceError, trace_rows

_TEAMS = ("search", "support", "billing", "research")
_SERVICES = ("chat", "summaries", "classifier")
# The last one has no price anywhere.
_MODELS = (
    ("openai", "gpt-4o"),
    ("openai", "gpt-4o-mini"),
    ("anthropic", "claude-sonnet-4-5"),
    ("google", "gemini-2.5-flash"),
    ("house", "house-model-1"),
)
_ERRORS = ((429, "rate_limit"), (500, "server_error"), (504, "timeout"))
# Providers differ in how often they fail, and one service gets slower each day: something to find for who asks.
_ERROR_SHARES = {"openai": 0.02, "anthropic": 0.03, "google": 0.06, "house": 0.01}
_SLOWER_SERVICE = "summaries"
_SLOWER_BY_DAY = 0.05
_NAMESPACE = uuid.UUID("6f9b1a6e-6c0f-4f6e-9c27-0d5a4b8f2a11")


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a model: when, and its tokens."""

    at_ms: int
    input_tokens: int
    output_tokens: int


def trace_calls(path: Path, *, until: datetime, span: timedelta | None = None) -> list[Call]:
    """The calls of a CSV with TIMESTAMP, ContextTokens, GeneratedTokens, shifted so that the last one is at `until`.

    With a span, the times are stretched or compressed to it. Raises TraceError, which names the line, or OSError.
    """
    rows = sorted(trace_rows(path))
    if not rows:
        raise TraceError(f"{path}: expected at least one request, came none")
    first_ms, last_ms = rows[0][0], rows[-1][0]
    factor = 1.0 if span is None or first_ms == last_ms else span / timedelta(milliseconds=last_ms - first_ms)
    until_ms = round(until.timestamp() * 1000)
    return [Call(until_ms - round((last_ms - at_ms) * factor), *tokens) for at_ms, *tokens in rows]


def usage_events(calls: list[Call], seed: int, *, mark: str = "") -> Iterator[dict[str, Any]]:
    """An event for each call, as a client sends it. The seed decides who made the call and whether it failed.

    `mark` ends the ids of the users.
    """
    chance = random.Random(seed)  # noqa: S311  # made-up traffic, reproducible by its seed
    for number, call in enumerate(calls):
        user = min(int(chance.paretovariate(0.9)), 60)
        service = _SERVICES[user % len(_SERVICES)]
        provider, model = _MODELS[min(int(chance.expovariate(0.9)), len(_MODELS) - 1)]
        status, error = chance.choice(_ERRORS) if chance.random() < _ERROR_SHARES[provider] else (200, None)
        days = (call.at_ms - calls[0].at_ms) / DAY_MS
        slowness = 1 + _SLOWER_BY_DAY * days if service == _SLOWER_SERVICE else 1
        event = {
            "event_id": str(uuid.uuid5(_NAMESPACE, f"{seed}:{number}:{call.at_ms}")),
            "event_time": datetime.fromtimestamp(call.at_ms / 1000, UTC).isoformat(timespec="milliseconds"),
            "user_id": f"user-{user:02d}-{mark}" if mark else f"user-{user:02d}",
            "team": _TEAMS[user % len(_TEAMS)],
            "service": service,
            "provider": provider,
            "model": model,
            "input_tokens": call.input_tokens,
            "output_tokens": 0 if error else call.output_tokens,
            "latency_ms": round(slowness * (200 + 12 * call.output_tokens * chance.uniform(0.8, 1.4))),
            "status_code": status,
        }
        yield event | ({"error_type": error} if error else {})
