"""What clients send: usage events and message archives (contracts §2), and how one becomes a row. Pure; no I/O."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import blake2b
from typing import Any
from uuid import UUID

import msgspec

from usage_pipeline import values
from usage_pipeline.storage.copy_text import copy_line
from usage_pipeline.values import UNREADABLE_JSON, Malformed

# Clients' clocks may be ahead by so much (contracts: time window).
CLOCK_AHEAD = timedelta(minutes=5)
# A prompt is what is looked at beside the numbers; whole conversations are message archives.
MAX_PROMPT_CHARACTERS = 1_000_000
MAX_EXTRA_CHARACTERS = 1_000_000
MAX_ARCHIVE_CHARACTERS = 16_000_000
MAX_LATENCY_MS = 2**31 - 1


@dataclass(frozen=True, slots=True)
class EventWindow:
    """Which event times are taken, both ends included, and how RETENTION_DAYS bounds them."""

    oldest: datetime
    newest: datetime
    retention_days: int

    @classmethod
    def around(cls, now: datetime, retention_days: int) -> "EventWindow":
        return cls(now - timedelta(days=retention_days), now + CLOCK_AHEAD, retention_days)


class UsageEvent(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """One request to a model. What is optional may also be null."""

    event_id: UUID
    event_time: datetime
    user_id: str
    team: str
    service: str
    provider: str
    model: str
    total_tokens: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    latency_ms: int | None = None
    status_code: int | None = None
    error_type: str | None = None
    prompt: str | None = None
    extra: dict[str, Any] | None = None


class MessageArchive(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """The whole prompt and response of an event that is stored before."""

    event_id: UUID
    user_id: str
    service: str
    prompt_full: str | None = None
    response_full: str | None = None


@dataclass(frozen=True, slots=True)
class Item:
    """A valid item as the line to stage: COPY text, without the position that comes first. Archives have no time."""

    event_id: UUID
    line: bytes
    event_time: datetime | None


Parse = Callable[[bytes | msgspec.Raw, EventWindow], Item]

_decode_event = msgspec.json.Decoder(UsageEvent).decode
_decode_archive = msgspec.json.Decoder(MessageArchive).decode


def parse_event(item: bytes | msgspec.Raw, window: EventWindow) -> Item:
    """The JSON of an event -> its row in the column order of `sql/events/stage_usage_event.sql`. Raises Malformed."""
    try:
        event = _decode_event(item)
    except UNREADABLE_JSON as error:
        raise Malformed(_unreadable("a usage event", error)) from None
    at = _event_time(event.event_time, window)
    payload = copy_line(
        (
            values.identifier_text("user_id", event.user_id),
            values.identifier_text("team", event.team),
            values.identifier_text("service", event.service),
            values.identifier_text("provider", event.provider),
            values.identifier_text("model", event.model),
            _tokens("input_tokens", event.input_tokens),
            _tokens("output_tokens", event.output_tokens),
            _total_tokens(event),
            _within("latency_ms", event.latency_ms, 0, MAX_LATENCY_MS),
            _within("status_code", event.status_code, 100, 599),
            event.error_type and values.identifier_text("error_type", event.error_type),
            _long_text("prompt", event.prompt, MAX_PROMPT_CHARACTERS),
            _extra(event.extra),
        )
    )
    return Item(event.event_id, _staged(event.event_id, payload, at), at)


def parse_archive(item: bytes | msgspec.Raw, window: EventWindow) -> Item:
    """The JSON of an archive -> its row in the column order of `sql/events/stage_message_archive.sql`. Raises Malformed."""
    try:
        archive = _decode_archive(item)
    except UNREADABLE_JSON as error:
        raise Malformed(_unreadable("a message archive", error)) from None
    if archive.prompt_full is None and archive.response_full is None:
        raise Malformed("prompt_full, response_full: expected at least one of them, came none")
    payload = copy_line(
        (
            values.identifier_text("user_id", archive.user_id),
            values.identifier_text("service", archive.service),
            _long_text("prompt_full", archive.prompt_full, MAX_ARCHIVE_CHARACTERS),
            _long_text("response_full", archive.response_full, MAX_ARCHIVE_CHARACTERS),
        )
    )
    return Item(archive.event_id, _staged(archive.event_id, payload), None)


def _staged(event_id: UUID, payload: bytes, *time: datetime) -> bytes:
    """The hash covers all but id and time: a retry may stamp its own time."""
    return copy_line((event_id, blake2b(payload, digest_size=16).digest(), *time)) + b"\t" + payload


def _unreadable(what: str, error: Exception) -> str:
    return f"expected {what} as a JSON object, came one with a fault: {values.described(error)}"


def _event_time(at: datetime, window: EventWindow) -> datetime:
    if at.tzinfo is None:
        raise Malformed(f"event_time: expected an ISO-8601 time with its offset, for example Z, came {at.isoformat()}")
    if not window.oldest <= at <= window.newest:
        raise Malformed(
            f"event_time: expected a time from {window.oldest:%Y-%m-%dT%H:%M:%SZ} (RETENTION_DAYS={window.retention_days}) "
            f"to {window.newest:%Y-%m-%dT%H:%M:%SZ} (now and 5 minutes), came {at.isoformat()}"
        )
    return at


def _total_tokens(event: UsageEvent) -> int:
    """As given; without it, the sum of both parts; 0 when nothing tells."""
    total = _tokens("total_tokens", event.total_tokens)
    if event.input_tokens is None or event.output_tokens is None:
        return total or 0
    parts = event.input_tokens + event.output_tokens
    if total is not None and total != parts:
        raise Malformed(f"total_tokens: expected input_tokens + output_tokens = {parts}, came {total}")
    return _tokens("input_tokens + output_tokens", parts) or 0


def _tokens(name: str, count: int | None) -> int | None:
    return _within(name, count, 0, values.MAX_COUNT)


def _within(name: str, number: int | None, least: int, most: int) -> int | None:
    if number is not None and not least <= number <= most:
        raise Malformed(f"{name}: expected {least} to {most}, came {number}")
    return number


def _long_text(name: str, text: str | None, most: int) -> str | None:
    if text is None:
        return None
    if len(text) > most:
        raise Malformed(f"{name}: expected at most {most} characters, came {len(text)}")
    if "\0" in text:
        raise Malformed(f"{name}: expected no NUL character, came one at position {text.index(chr(0))}")
    return text


def _extra(extra: dict[str, Any] | None) -> str | None:
    if extra is None:
        return None
    return _long_text("extra", values.storable_json(extra, "extra"), MAX_EXTRA_CHARACTERS)
