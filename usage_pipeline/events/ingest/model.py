"""Usage events and message archives as clients send them (contracts §2), and how they become rows. Pure; no I/O."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import blake2b
from typing import Annotated, Any
from uuid import UUID

import msgspec

from usage_pipeline import values
from usage_pipeline.settings import Settings
from usage_pipeline.storage.copy_text import NULL, copy_line
from usage_pipeline.values import UNREADABLE_JSON, Malformed

# The clock of a client may be ahead by this much (contracts: time window).
CLOCK_AHEAD = timedelta(minutes=5)
# A prompt is kept for a look at it beside the numbers. Whole conversations belong into message archives.
MAX_PROMPT_CHARACTERS = 1_000_000
MAX_EXTRA_CHARACTERS = 1_000_000
MAX_ARCHIVE_CHARACTERS = 16_000_000
MAX_LATENCY_MS = 2**31 - 1
# From here on, a float may stand for another whole number than the one that was written.
_FIRST_INEXACT = 2.0**53
# The most bytes that JSON may need for one character, for example \u00fc.
_ESCAPED_BYTES = 6
# What a reason adds to a total that is not the sum of its parts.
_MORE_THAN_PARTS = (
    "What is missing is usually thoughts beside the answer (Google), which belong to output_tokens, or cached tokens beside "
    "the prompt (Anthropic), which belong to input_tokens"
)
_SUM_BY_ITSELF = "Leave total_tokens out to have it summed up"
_NULL = msgspec.Raw(b"null")
_NONE = NULL.decode()
# Characters that COPY text must escape, or that text in PostgreSQL cannot hold. Tabs are missing here: they are counted.
_NOT_PLAIN = re.compile(r"[\\\n\r\0]").search


@dataclass(frozen=True, slots=True)
class EventWindow:
    """The event times that are accepted, both ends included. `oldest_by` is the setting that says how old an event may be."""

    oldest: datetime
    newest: datetime
    oldest_by: str

    @classmethod
    def around(cls, now: datetime, settings: Settings) -> "EventWindow":
        """Older events would be removed at once (RETENTION_DAYS), or never be rolled up and never leave (USAGE_START_DATE)."""
        oldest, setting = max(
            (now - timedelta(days=settings.retention_days), f"RETENTION_DAYS={settings.retention_days}"),
            (settings.usage_start, f"USAGE_START_DATE={settings.usage_start_date}"),
        )
        return cls(oldest, now + CLOCK_AHEAD, setting)


class UsageEvent(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """One request to a model. An optional member may also be null."""

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
    """The whole prompt and response of an event that is already stored."""

    event_id: UUID
    user_id: str
    service: str
    prompt_full: str | None = None
    response_full: str | None = None


class _ReceivedEvent(UsageEvent):
    """The event as it comes: whole numbers may be written as 10.0 or 1e3, as pandas does where a column has a gap. The extra
    members are text: a short text may become large when it is decoded.
    """

    total_tokens: int | float | None = None  # type: ignore[assignment]
    input_tokens: int | float | None = None  # type: ignore[assignment]
    output_tokens: int | float | None = None  # type: ignore[assignment]
    latency_ms: int | float | None = None  # type: ignore[assignment]
    status_code: int | float | None = None  # type: ignore[assignment]
    extra: msgspec.Raw = _NULL  # type: ignore[assignment]  # where the parent has decoded members


_Id = Annotated[str, msgspec.Meta(min_length=1, max_length=values.MAX_ID_CHARACTERS)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=values.MAX_COUNT)]


class _PlainEvent(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """The same event, decoded only if each single value keeps its rule."""

    event_id: UUID
    event_time: Annotated[datetime, msgspec.Meta(tz=True)]
    user_id: _Id
    team: _Id
    service: _Id
    provider: _Id
    model: _Id
    total_tokens: _Count | None = None
    input_tokens: _Count | None = None
    output_tokens: _Count | None = None
    latency_ms: Annotated[int, msgspec.Meta(ge=0, le=MAX_LATENCY_MS)] | None = None
    status_code: Annotated[int, msgspec.Meta(ge=100, le=599)] | None = None
    error_type: Annotated[str, msgspec.Meta(max_length=values.MAX_ID_CHARACTERS)] | None = None
    prompt: str | None = None
    extra: msgspec.Raw = _NULL


class Item(msgspec.Struct, frozen=True, gc=False):
    """A valid item: its id, the time (archives have none), the hash in hex digits, and its other columns as COPY text."""

    event_id: UUID
    event_time: datetime | None
    payload_hash: str
    payload: bytes

    def staged(self, position: int) -> bytes:
        """The line of its staging table."""
        time = "" if self.event_time is None else f"{self.event_time.isoformat()}\t"
        return f"{position}\t{self.event_id.int:032x}\t\\\\x{self.payload_hash}\t{time}".encode() + self.payload + b"\n"


Parse = Callable[[bytes | msgspec.Raw, EventWindow], Item]

_decode_plain = msgspec.json.Decoder(_PlainEvent).decode
_decode_event = msgspec.json.Decoder(_ReceivedEvent).decode
_decode_extra = msgspec.json.Decoder(dict[str, Any] | None).decode
_decode_archive = msgspec.json.Decoder(MessageArchive).decode


def parse_event(item: bytes | msgspec.Raw, window: EventWindow) -> Item:
    """The JSON of an event -> its row in the column order of `sql/events/ingest/stage_usage_event.sql`. Raises Malformed.

    Nearly all events are plain, and their line is put together here in a third of the time that `_parse_any_event` takes for
    the same line.
    """
    try:
        event = _decode_plain(item)
    except UNREADABLE_JSON:
        return _parse_any_event(item, window)
    at, entered, left, total = event.event_time, event.input_tokens, event.output_tokens, event.total_tokens
    parts = (entered or 0) + (left or 0)
    if total is None or (total == 0 and (entered is None or left is None)):
        total = parts
    texts = f"{event.user_id}\t{event.team}\t{event.service}\t{event.provider}\t{event.model}"
    error = event.error_type or None
    if (
        event.prompt is not None
        or event.extra is not _NULL
        or not window.oldest <= at <= window.newest
        or (total != parts and (entered is not None or left is not None))
        or total > values.MAX_COUNT
        or texts.count("\t") != 4
        or _NOT_PLAIN(texts)
        or (error and _NOT_PLAIN(error))
        or (error and "\t" in error)
    ):
        return _parse_any_event(item, window)
    latency, status = event.latency_ms, event.status_code
    payload = (
        f"{texts}\t{_NONE if entered is None else entered}\t{_NONE if left is None else left}\t{total}"
        f"\t{_NONE if latency is None else latency}\t{_NONE if status is None else status}"
        f"\t{_NONE if error is None else error}\t{_NONE}\t{_NONE}"
    ).encode()
    return Item(event.event_id, at, _hash(payload), payload)


def _parse_any_event(item: bytes | msgspec.Raw, window: EventWindow) -> Item:
    """Checks one rule after the other, and so finds the reason of a refusal."""
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
            entered := _tokens("input_tokens", event.input_tokens),
            left := _tokens("output_tokens", event.output_tokens),
            _total_tokens(entered, left, _tokens("total_tokens", event.total_tokens)),
            _within("latency_ms", event.latency_ms, 0, MAX_LATENCY_MS),
            _within("status_code", event.status_code, 100, 599),
            values.identifier_text("error_type", event.error_type) if event.error_type else None,
            _long_text("prompt", event.prompt, MAX_PROMPT_CHARACTERS),
            _extra(event.extra),
        )
    )
    return Item(event.event_id, at, _hash(payload), payload)


def parse_archive(item: bytes | msgspec.Raw, window: EventWindow) -> Item:
    """The JSON of an archive -> its row in the column order of `stage_message_archive.sql`. Raises Malformed."""
    try:
        archive = _decode_archive(item)
    except UNREADABLE_JSON as error:
        raise Malformed(_unreadable("a message archive", error)) from None
    if not archive.prompt_full and not archive.response_full:
        raise Malformed("prompt_full, response_full: expected at least one of them, came none")
    payload = copy_line(
        (
            values.identifier_text("user_id", archive.user_id),
            values.identifier_text("service", archive.service),
            _long_text("prompt_full", archive.prompt_full, MAX_ARCHIVE_CHARACTERS),
            _long_text("response_full", archive.response_full, MAX_ARCHIVE_CHARACTERS),
        )
    )
    return Item(archive.event_id, None, _hash(payload), payload)


def _hash(payload: bytes) -> str:
    """A hash of everything except id and time: a retry may have its own time."""
    return blake2b(payload, digest_size=16).hexdigest()


def _unreadable(what: str, error: Exception) -> str:
    return f"expected {what} as a JSON object, came one with a fault: {values.described(error)}"


def _event_time(at: datetime, window: EventWindow) -> datetime:
    if at.tzinfo is None:
        raise Malformed(f"event_time: expected an ISO-8601 time with its offset, for example Z, came {at.isoformat()}")
    if not window.oldest <= at <= window.newest:
        raise Malformed(
            f"event_time: expected a time from {window.oldest:%Y-%m-%dT%H:%M:%SZ} ({window.oldest_by}) "
            f"to {window.newest:%Y-%m-%dT%H:%M:%SZ} (now and 5 minutes), came {at.isoformat()}"
        )
    return at


def _total_tokens(entered: int | None, left: int | None, total: int | None) -> int:
    """The given total, or the sum of the parts. With only one part, the total 0 is the default of clients, so not given.

    A total above the one part stays: the rest is of a kind that the client did not tell.
    """
    given = [part for part in (entered, left) if part is not None]
    parts = _tokens("input_tokens + output_tokens", sum(given)) or 0
    if total is None or not given:
        return total or parts
    if len(given) == 2 and total != parts:
        reason = f"total_tokens: expected input_tokens + output_tokens = {parts}, came {total}"
        raise Malformed(f"{reason}. {_MORE_THAN_PARTS if total > parts else _SUM_BY_ITSELF}")
    if len(given) == 1 and 0 < total < parts:
        name = "output_tokens" if entered is None else "input_tokens"
        raise Malformed(f"total_tokens: expected at least {name} = {parts}, came {total}. {_SUM_BY_ITSELF}")
    return total or parts


def _tokens(name: str, count: int | float | None) -> int | None:
    return _within(name, count, 0, values.MAX_COUNT)


def _within(name: str, number: int | float | None, least: int, most: int) -> int | None:
    if isinstance(number, float):
        if not number.is_integer():
            raise Malformed(f"{name}: expected a whole number, came {number}")
        if abs(number) >= _FIRST_INEXACT:
            raise Malformed(f"{name}: expected so large a number in digits alone, came {number}, which may be rounded")
        number = int(number)
    if number is not None and not least <= number <= most:
        raise Malformed(f"{name}: expected {least} to {most}, came {number}")
    return number


def _long_text(name: str, text: str | None, most: int) -> str | None:
    """An empty text is the same as none."""
    if not text:
        return None
    if len(text) > most:
        raise Malformed(f"{name}: expected at most {most} characters, came {len(text)}")
    if "\0" in text:
        raise Malformed(f"{name}: expected no NUL character, came one at position {text.index(chr(0))}")
    return text


def _extra(text: msgspec.Raw) -> str | None:
    size = memoryview(text).nbytes
    if size > _ESCAPED_BYTES * MAX_EXTRA_CHARACTERS:
        raise Malformed(f"extra: expected at most {MAX_EXTRA_CHARACTERS} characters, came {size} bytes")
    try:
        extra = _decode_extra(text)
    except UNREADABLE_JSON as error:
        raise Malformed(_unreadable("a usage event", error)) from None
    if extra is None:
        return None
    return _long_text("extra", values.storable_json(extra, "extra"), MAX_EXTRA_CHARACTERS)
