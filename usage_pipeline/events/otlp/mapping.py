"""What a span means: whether it is one call of a model, and the usage event that it is then (contracts §8, §9)."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any, Final

import msgspec

from usage_pipeline import values
from usage_pipeline.events.ingest.model import MAX_LATENCY_MS
from usage_pipeline.events.otlp import names
from usage_pipeline.events.otlp.span import ODD, Attributes, Reading, Span, Value
from usage_pipeline.settings import Settings
from usage_pipeline.values import Malformed

# Who gives the ids.
SOURCE: Final = "otlp"
# What the conventions say where nothing is known about an error: https://opentelemetry.io/docs/specs/semconv/registry/attributes/error/
_OTHER_ERROR = "_OTHER"
_TRACE_ID = re.compile(r"(?!0{32})[0-9a-f]{32}")
_SPAN_ID = re.compile(r"(?!0{16})[0-9a-f]{16}")
_HTTP_STATUS = re.compile(r"[1-5][0-9]{2}")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NS_PER_MS = 1_000_000
_MS_PER_SECOND = 1_000
# JSON has whole numbers of 64 bits.
_MOST_NUMBER = 2**63
_COUNTS = ("input_tokens", "output_tokens", "total_tokens")
_TOKENS = frozenset(
    name for found in (*(names.MEMBERS[one] for one in _COUNTS), *names.UNITS.values()) for name in found
)
# The tables the other way round: what an attribute tells, and how many names of the same come before it.
_MEANINGS = {
    name: (member, rank)
    for member, found in (*names.MEMBERS.items(), *names.UNITS.items())
    for rank, name in enumerate(found)
}
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True)
class Rules:
    """Which attributes tell team, user and service."""

    team: Sequence[str]
    user: Sequence[str]
    service: Sequence[str]

    @classmethod
    def of(cls, settings: Settings) -> "Rules":
        return cls(settings.otlp_team_names, settings.otlp_user_names, settings.otlp_service_names)

    @cached_property
    def of_resources(self) -> Reading:
        """What is read of a resource."""
        return Reading(frozenset((*self.team, *self.user, *self.service)).__contains__, _never)

    @cached_property
    def of_spans(self) -> Reading:
        """What is read of a span, but for its prompts and answers."""
        read = (
            *names.MODEL_CALLS,
            names.FRAMEWORK_MARKER,
            *(name for found in (*names.MEMBERS.values(), *names.UNITS.values()) for name in found),
            *(names.ERROR_TYPE, *names.STATUS_CODE, names.TIME_TO_FIRST_CHUNK),
            *(*self.team, *self.user, *self.service),
        )
        return Reading(frozenset(read).__contains__, _never)

    @cached_property
    def of_content(self) -> Reading:
        """What is read of a span for its message archive."""
        return Reading(_is_content, _is_content)


def is_model_call(span: Span) -> bool:
    """Whether a span is one call of a model. Spans of agents, workflows and tools repeat the tokens of their children."""
    for name, calls in names.MODEL_CALLS.items():
        marker = span.attributes.get(name)
        if isinstance(marker, str):
            return marker.lower() in calls
    return False


def has_unknown_tokens(span: Span) -> bool:
    """Whether a span that is no call of a model has tokens all the same, and nothing says that they are those of others."""
    attributes = span.attributes
    if names.FRAMEWORK_MARKER in attributes or not any(name in attributes for name in _TOKENS):
        return False
    markers = (attributes[name] for name in names.MODEL_CALLS if name in attributes)
    return not any(isinstance(marker, str) and marker.lower() in names.SUMS for marker in markers)


def event_of(span: Span, resource: Attributes, rules: Rules) -> bytes:
    """The usage event of a call of a model, as JSON. Whether it keeps the rules of events is not looked at here.

    Raises Malformed for a span without an id.
    """
    _expect_ids(span)
    attributes = span.attributes
    told = _told(attributes)
    event: dict[str, Any] = {
        "event_id": span.name,
        "source": SOURCE,
        "event_time": _time(span),
        "user_id": _who(rules.user, attributes, resource),
        "team": _who(rules.team, attributes, resource),
        "service": _who(rules.service, attributes, resource),
        "provider": _provider(told.get("provider")),
        "model": _name(told.get("model")),
    }
    event |= {member: _count(told[member]) for member in _COUNTS if member in told}
    usage = {unit: _count(count) for unit, count in told.items() if unit in names.UNITS}
    if usage:
        event["usage"] = usage
    if isinstance(tier := told.get("service_tier"), str) and _fits(tier):
        event["service_tier"] = tier
    if span.end_ns >= span.start_ns > 0:
        latency = (span.end_ns - span.start_ns + _NS_PER_MS // 2) // _NS_PER_MS
        if latency <= MAX_LATENCY_MS:
            event["latency_ms"] = latency
    event |= _outcome(span)
    first_chunk = attributes.get(names.TIME_TO_FIRST_CHUNK)
    if isinstance(first_chunk, int | float) and 0 <= first_chunk * _MS_PER_SECOND <= MAX_LATENCY_MS:
        event["extra"] = {"time_to_first_chunk_ms": round(first_chunk * _MS_PER_SECOND)}
    return _encode(event)


def archive_of(span: Span, resource: Attributes, rules: Rules, content: Attributes) -> bytes | None:
    """The message archive of the same, as JSON; None where the span has neither a prompt nor an answer."""
    prompt, answer = (_content(content, known) for known in (names.PROMPTS, names.ANSWERS))
    if not prompt and not answer:
        return None
    archive = {
        "event_id": span.name,
        "source": SOURCE,
        "user_id": _who(rules.user, span.attributes, resource),
        "service": _who(rules.service, span.attributes, resource),
        "prompt_full": prompt,
        "response_full": answer,
    }
    return _encode(archive)


def _never(name: str) -> bool:
    return False


def _is_content(name: str) -> bool:
    return any(name == known or name.startswith(f"{known}.") for known in (*names.PROMPTS, *names.ANSWERS))


def _content(content: Attributes, known: Sequence[str]) -> str | None:
    """The first text that is there as a whole, or else all of its parts as JSON: `{"gen_ai.prompt.0.content": …}`."""
    for name in known:
        if content.get(name):
            return _stored(str(content[name]))
        parts = {part: value for part, value in content.items() if part.startswith(f"{name}.")}
        if parts:
            return _stored(_encode(parts).decode())
    return None


def _stored(text: str) -> str:
    """PostgreSQL's texts have no NUL."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")


def _expect_ids(span: Span) -> None:
    if _TRACE_ID.fullmatch(span.trace_id) and _SPAN_ID.fullmatch(span.span_id):
        return
    for name, digits, pattern, size in (
        ("trace id", span.trace_id, _TRACE_ID, 16),
        ("span id", span.span_id, _SPAN_ID, 8),
    ):
        if not pattern.fullmatch(digits):
            came = values.shown(digits[:100].encode(errors="replace")) if digits else "none"
            raise Malformed(f"{name}: expected {size} bytes that are not all zero, came {came}")


def _time(span: Span) -> datetime | None:
    """When the request was made."""
    try:
        return _EPOCH + timedelta(microseconds=(span.start_ns or span.end_ns) // 1_000)
    except OverflowError:
        raise Malformed(f"start time: expected nanoseconds since 1970, came {span.start_ns}") from None


def _told(attributes: Attributes) -> Mapping[str, Value]:
    """What the attributes tell, by member of the event or unit; of several names for the same the first in the tables."""
    found: dict[str, Value] = {}
    ranks: dict[str, int] = {}
    for name, value in attributes.items():
        if value is not None and (meaning := _MEANINGS.get(name)) is not None:
            member, rank = meaning
            if rank <= ranks.get(member, rank):
                found[member], ranks[member] = value, rank
    return found


def _first(attributes: Attributes, told: Sequence[str]) -> Value:
    for name in told:
        if (value := attributes.get(name)) is not None:
            return value
    return None


def _who(told: Sequence[str], attributes: Attributes, resource: Attributes) -> str:
    """The first of these attributes that is there, of the span or else of its resource; `unknown` if none can be used."""
    for name in told:
        for one in (attributes, resource):
            if (value := one.get(name)) is not None and value != "" and value is not ODD:
                text = value if isinstance(value, str) else str(value)
                if _fits(text):
                    return text
    return names.UNKNOWN


def _fits(text: str) -> bool:
    return 0 < len(text) <= values.MAX_ID_CHARACTERS and "\0" not in text


def _name(value: Value) -> str:
    return str(value) if value not in (None, "", ODD) else names.UNKNOWN


def _provider(value: Value) -> str:
    name = _name(value).lower()
    return names.PROVIDERS.get(name, name)


def _count(value: Value) -> Value:
    """A count as it is told. What JSON cannot have becomes a text, which the rules of events refuse with its reason."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, str | float) or abs(value or 0) < _MOST_NUMBER else str(value)


def _outcome(span: Span) -> Mapping[str, Any]:
    """`error_type` and `status_code`: by the status of the span, its error.type, or the exception that it recorded."""
    found: dict[str, Any] = {}
    status = _first(span.attributes, names.STATUS_CODE)
    error = span.attributes.get(names.ERROR_TYPE)
    if not isinstance(error, str) or not _fits(error):
        error = None
    if span.is_error or error:
        kind = error or span.exception_type or _OTHER_ERROR
        found["error_type"] = kind if _fits(kind) else _OTHER_ERROR
        if status is None and _HTTP_STATUS.fullmatch(kind):
            status = int(kind)
    if isinstance(status, int) and not isinstance(status, bool) and 100 <= status <= 599:
        found["status_code"] = status
    return found
