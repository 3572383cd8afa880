"""Langfuse's observations, as its exports and its API have them -> usage events (contracts §9). Pure; no I/O.

Only generations and embeddings are calls of a model. Spans, agents, tools and traces repeat what these inside of them used.
Inputs and outputs are left out.
"""

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from math import isfinite
from typing import Any

import msgspec

from usage_pipeline import values
from usage_pipeline.events.formats.absent import present
from usage_pipeline.events.formats.outlines import UNKNOWN, fitted, object_of, text_of
from usage_pipeline.events.ingest.members import MAX_COST_USD, MAX_TAG_NAME_CHARACTERS, MAX_TAGS
from usage_pipeline.events.ingest.model import MAX_LATENCY_MS
from usage_pipeline.values import Malformed

SOURCE = "langfuse"
_CALLS = ("GENERATION", "EMBEDDING")
_ERROR = "ERROR"
# What it is called: in the API and the UI's exports, in exports to a store, in earlier versions.
_NAMES: dict[str, tuple[str, ...]] = {
    "started": ("startTime", "start_time"),
    "ended": ("endTime", "end_time"),
    "model": ("model", "providedModelName", "provided_model_name", "modelName"),
    "user": ("userId", "user_id"),
    "trace": ("traceName", "trace_name"),
    "usage": ("usageDetails", "usage_details"),
    "old_usage": ("usage",),
    "costs": ("costDetails", "cost_details"),
    "cost": ("totalCost", "total_cost", "calculatedTotalCost", "calculated_total_cost"),
    "input": ("promptTokens", "prompt_tokens", "inputUsage", "inputTokens"),
    "output": ("completionTokens", "completion_tokens", "outputUsage", "outputTokens"),
    "total": ("totalTokens", "total_tokens", "totalUsage"),
    "message": ("statusMessage", "status_message"),
    "tags": ("tags", "traceTags", "trace_tags"),
}
# Units by the words in a name of Langfuse's usage types, which senders choose. The first that fits counts.
_PARTS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("cache_write_5m_tokens", re.compile(r"(?=.*5m).*(?:creation|write)")),
    ("cache_write_1h_tokens", re.compile(r"(?=.*1h).*(?:creation|write)")),
    ("cache_write_tokens", re.compile(r"cache.*(?:creation|write)")),
    ("cache_audio_read_tokens", re.compile(r"(?=.*cache).*audio")),
    ("cache_read_tokens", re.compile(r"cache")),
    ("output_reasoning_tokens", re.compile(r"reasoning|thought|thinking")),
    ("output_audio_tokens", re.compile(r"(?=.*(?:output|completion)).*audio")),
    ("input_audio_tokens", re.compile(r"audio")),
    ("output_image_tokens", re.compile(r"(?=.*(?:output|completion)).*image")),
    ("input_image_tokens", re.compile(r"image")),
)
_WHOLES = {
    "input_tokens": ("input", "prompt", "input_tokens", "prompt_tokens"),
    "output_tokens": ("output", "completion", "output_tokens", "completion_tokens"),
}
_TOTALS = ("total", "total_tokens")
# Earlier versions also counted characters, seconds and images under the same names.
_TOKENS = ("", "TOKENS")
_ERROR_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]{0,99}")


class NoCall(Exception):
    """An observation is no call of a model; the message is its type."""


def event_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """An observation -> an event. Cells of a CSV file are texts. Raises NoCall, and Malformed."""
    found = {name: _first(row, names) for name, names in _NAMES.items()}
    kind = text_of(row.get("type")).upper()
    if not kind:
        # The table of generations of earlier versions has no type. Traces and scores have none either.
        kind = _CALLS[0] if found["started"] is not None and found["model"] is not None else "row without a type"
    if kind not in _CALLS:
        raise NoCall(kind.lower())
    if not (event_id := text_of(row.get("id"))):
        raise Malformed("id: expected a text, came none")
    started, ended = _moment("startTime", found["started"]), _moment("endTime", found["ended"])
    if started is None:
        raise Malformed("startTime: expected a time, came none")
    metadata, tags = object_of(_decoded(row.get("metadata"))), _tags(row, found)
    event = {
        "event_id": event_id,
        "source": SOURCE,
        "event_time": started.isoformat(),
        "user_id": text_of(found["user"]) or _named(metadata, "user_id", "userId") or UNKNOWN,
        "team": tags.get("team") or _named(metadata, "team") or UNKNOWN,
        "service": tags.get("service") or _named(metadata, "service") or text_of(found["trace"]) or UNKNOWN,
        # As LangChain names it; or in front of the model.
        "provider": _named(metadata, "provider", "ls_provider") or UNKNOWN,
        "model": text_of(found["model"]) or UNKNOWN,
        **_usage(found),
        "cost_usd": _cost(found),
        "latency_ms": _latency(started, ended),
        "error_type": _error(row, found),
        "tags": tags,
    }
    return {name: value for name, value in event.items() if value not in (None, "", {})}


def _first(row: Mapping[str, Any], names: Iterable[str]) -> Any:
    return next((row[name] for name in names if row.get(name) not in (None, "")), None)


def _decoded(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return msgspec.json.decode(value)
    except values.UNREADABLE_JSON:
        return None


def _named(metadata: Mapping[str, Any], *names: str) -> str:
    return next((text for name in names if (text := text_of(metadata.get(name)))), "")


def _moment(name: str, value: Any) -> datetime | None:
    """An ISO-8601 time; Langfuse's own without an offset are in UTC."""
    if value is None:
        return None
    try:
        at = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        came = values.shown(str(value).encode(errors="backslashreplace"))
        raise Malformed(f"{name}: expected an ISO-8601 time, came {came}") from None
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)


def _latency(started: datetime, ended: datetime | None) -> int | None:
    took = None if ended is None else round((ended - started).total_seconds() * 1000)
    return took if took is not None and 0 <= took <= MAX_LATENCY_MS else None


def _error(row: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """The kind of error in front of its message, which itself may have parts of a prompt."""
    if text_of(row.get("level")).upper() != _ERROR:
        return ""
    name = text_of(found["message"]).partition(":")[0].strip()
    return name if _ERROR_NAME.fullmatch(name) else "error"


def _cost(found: Mapping[str, Any]) -> int | float | None:
    """US dollars. Langfuse writes 0 also where it knows no price: such a 0 is none."""
    costs = object_of(_decoded(found["costs"]))
    for value in (found["cost"], costs.get("total")):
        cost = _number(value)
        if cost is not None and 0 < cost <= MAX_COST_USD:
            return cost
    parts = [cost for cost in map(_number, costs.values()) if cost]
    return sum(parts) if parts and 0 < sum(parts) <= MAX_COST_USD else 0 if costs.get("total") == 0 else None


def _number(value: Any) -> int | float | None:
    if isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    if not isfinite(number):
        return None
    return int(number) if number.is_integer() else number


def _usage(found: Mapping[str, Any]) -> dict[str, Any]:
    """Tokens and units. Langfuse's usage types exclude each other: its `input` leaves out what is cached.

    Some senders put it in. The total tells which of the two it is.
    """
    details = {
        name: count for name, one in object_of(_decoded(found["usage"])).items() if (count := _number(one)) is not None
    }
    old = object_of(_decoded(found["old_usage"]))
    if not details and text_of(old.get("unit")).upper() in _TOKENS:
        details = {
            name: count for name in ("input", "output", "total") if (count := _number(old.get(name))) is not None
        }
    wholes = {
        whole: next((details[name] for name in names if name in details), None) for whole, names in _WHOLES.items()
    }
    plain = {name for names in _WHOLES.values() for name in names} | set(_TOTALS)
    units: dict[str, int | float] = {}
    beside = {"input_tokens": 0.0, "output_tokens": 0.0}
    for name, count in details.items():
        if name in plain or not count:
            continue
        unit = next((unit for unit, words in _PARTS if words.search(name.lower())), None)
        if unit is not None:
            units[unit] = units.get(unit, 0) + count
        if unit is not None or name.lower().startswith(("input", "output", "prompt", "completion")):
            is_output = (unit or name.lower()).startswith(("output", "completion"))
            beside["output_tokens" if is_output else "input_tokens"] += count
    entered, left = wholes["input_tokens"], wholes["output_tokens"]
    if entered is None and left is None and not beside["input_tokens"] and not beside["output_tokens"]:
        entered, left = _number(found["input"]), _number(found["output"])
        total = _number(found["total"])
        if not (entered or left):
            return {"total_tokens": total} if total else {}
        return {name: one for name, one in (("input_tokens", entered), ("output_tokens", left)) if one is not None}
    total = next((details[name] for name in _TOTALS if name in details), None)
    entered, left = entered or 0, left or 0
    if total != entered + left or total is None:
        entered, left = entered + beside["input_tokens"], left + beside["output_tokens"]
    for part in ("cache_write_5m_tokens", "cache_write_1h_tokens"):
        if part in units:
            units["cache_write_tokens"] = units.get("cache_write_tokens", 0) + units[part]
    return {
        "input_tokens": entered,
        "output_tokens": left,
        **({"usage": units} if units else {}),
    }


def _tags(row: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, str]:
    """Tags by name: `project:apollo` becomes `project` = `apollo`, and `prod` becomes `prod` = `true`."""
    sent = _decoded(found["tags"])
    tags: dict[str, str] = {
        "environment": text_of(row.get("environment")),
        "name": text_of(row.get("name")),
        "trace_name": text_of(found["trace"]),
    }
    for tag in sent if isinstance(sent, list) else []:
        if text := text_of(tag):
            name, _, value = (part.strip() for part in text.partition(":"))
            tags.setdefault(fitted(name or text, MAX_TAG_NAME_CHARACTERS), fitted(value or "true"))
    kept = {name: value for name, value in tags.items() if value}
    return dict(list(present(kept).items())[:MAX_TAGS])
