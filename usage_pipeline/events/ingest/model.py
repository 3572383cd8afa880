"""Usage events and message archives as clients send them (contracts §2), and how they become rows. Pure; no I/O."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import blake2b
from threading import Lock
from types import MappingProxyType
from typing import Annotated, Any
from uuid import UUID

import msgspec

from usage_pipeline import values
from usage_pipeline.events.ingest.long_texts import copied_text
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
# The most bytes that JSON may need for one character: two escapes such as \ud83d.
_ESCAPED_BYTES = 12
# Everything but the long texts. An item that is no larger than this is decoded without a further look.
_SMALL_BYTES = 16 * 1024
# The most bytes of an item that can keep the rules. A larger one is refused before it is decoded.
MAX_EVENT_BYTES = _ESCAPED_BYTES * (MAX_PROMPT_CHARACTERS + MAX_EXTRA_CHARACTERS) + _SMALL_BYTES
# Of an archive it would be 384 MB, several times in memory. Two texts at their limits have 32 MB in ASCII.
MAX_ARCHIVE_BYTES = 64 * 2**20
# Each value takes time and memory that its characters do not show: with so many of them an event still takes some milliseconds.
MAX_EXTRA_VALUES = 10_000
_SIGNS_OF_VALUES = (b",", b"[", b"{")
# Up to the next sign of a value that is not inside a text.
_NEXT_VALUE = re.compile(rb'(?:[^",\[{]++|"(?:[^"\\]++|\\.)*+")*+[,\[{]', re.DOTALL)
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


_Json = bytes | memoryview | msgspec.Raw
Parse = Callable[[_Json, EventWindow], Item]


def _written(model: type[msgspec.Struct]) -> Callable[[_Json], Any]:
    """Decodes an item into its members as they are written."""
    fields = [(name, msgspec.Raw, msgspec.UNSET) for name in model.__struct_fields__]
    members = msgspec.defstruct(model.__name__, fields, forbid_unknown_fields=True, gc=False)
    return msgspec.json.Decoder(members).decode


_decode_plain = msgspec.json.Decoder(_PlainEvent).decode
_decode_event = msgspec.json.Decoder(_ReceivedEvent).decode
_decode_extra = msgspec.json.Decoder(dict[str, Any] | None).decode
_decode_archive = msgspec.json.Decoder(MessageArchive).decode
_written_event = _written(UsageEvent)
_written_archive = _written(MessageArchive)
# A large value may be 24 times as large once it is decoded; one after the other.
_one_at_a_time = Lock()


def parse_event(item: _Json, window: EventWindow) -> Item:
    """The JSON of an event -> its row in the column order of `sql/events/ingest/stage_usage_event.sql`. Raises Malformed.

    Nearly all events are plain, and their line is put together here in a third of the time that `_parse_any_event` takes for
    the same line.
    """
    if memoryview(item).nbytes > _SMALL_BYTES:
        return _parse_large_event(item, window)
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


def _parse_large_event(item: _Json, window: EventWindow) -> Item:
    small, long_texts = _parted("a usage event", item, MAX_EVENT_BYTES, _written_event, ("prompt", "extra"))
    with _one_at_a_time:
        return _parse_any_event(small, window, long_texts)


def _parted(
    what: str, item: _Json, most: int, written: Callable[[_Json], Any], long_names: tuple[str, ...]
) -> tuple[bytes, dict[str, msgspec.Raw]]:
    """A large item without its long members, and these as they are written. Raises Malformed, and decodes none of it."""
    size = memoryview(item).nbytes
    if size > most:
        raise Malformed(f"expected {what} of at most {most} bytes, came {size}")
    try:
        found = written(item)
    except UNREADABLE_JSON as error:
        raise Malformed(_unreadable(what, error)) from None
    members = {name: text for name in found.__struct_fields__ if (text := getattr(found, name)) is not msgspec.UNSET}
    long_texts = {name: members.pop(name) for name in long_names if name in members}
    for name, text in members.items():
        if memoryview(text).nbytes > _SMALL_BYTES:
            raise Malformed(f"{name}: expected at most {_SMALL_BYTES} bytes, came {memoryview(text).nbytes}")
    return msgspec.json.encode(members), long_texts


def _parse_any_event(
    item: _Json, window: EventWindow, long_texts: Mapping[str, msgspec.Raw] = MappingProxyType({})
) -> Item:
    """Checks one rule after the other, and so finds the reason of a refusal. `long_texts` are members beside the item."""
    try:
        event = _decode_event(item)
    except UNREADABLE_JSON as error:
        raise Malformed(_unreadable("a usage event", error)) from None
    at = _event_time(event.event_time, window)
    short = copy_line(
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
        )
    )
    prompt = (
        _copied("a usage event", "prompt", long_texts["prompt"], MAX_PROMPT_CHARACTERS)
        if "prompt" in long_texts
        else copy_line((_long_text("prompt", event.prompt, MAX_PROMPT_CHARACTERS),))
    )
    payload = b"\t".join((short, prompt, copy_line((_extra(long_texts.get("extra", event.extra)),))))
    return Item(event.event_id, at, _hash(payload), payload)


def parse_archive(item: _Json, window: EventWindow) -> Item:
    """The JSON of an archive -> its row in the column order of `stage_message_archive.sql`. Raises Malformed."""
    if memoryview(item).nbytes > _SMALL_BYTES:
        return _parse_large_archive(item)
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


def _parse_large_archive(item: _Json) -> Item:
    names = ("prompt_full", "response_full")
    small, long_texts = _parted("a message archive", item, MAX_ARCHIVE_BYTES, _written_archive, names)
    try:
        archive = _decode_archive(small)
    except UNREADABLE_JSON as error:
        raise Malformed(_unreadable("a message archive", error)) from None
    short = copy_line(
        (values.identifier_text("user_id", archive.user_id), values.identifier_text("service", archive.service))
    )
    copied = [_copied("a message archive", name, long_texts.get(name, _NULL), MAX_ARCHIVE_CHARACTERS) for name in names]
    if copied == [NULL, NULL]:
        raise Malformed("prompt_full, response_full: expected at least one of them, came none")
    payload = b"\t".join((short, *copied))
    return Item(archive.event_id, None, _hash(payload), payload)


def _copied(what: str, name: str, text: msgspec.Raw, most: int) -> bytes:
    try:
        return copied_text(name, memoryview(text), most) or NULL
    except UNREADABLE_JSON as error:
        raise Malformed(_unreadable(what, error)) from None


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
    if size > MAX_EXTRA_VALUES:
        _expect_few_values(bytes(text))
    try:
        extra = _decode_extra(text)
    except UNREADABLE_JSON as error:
        raise Malformed(_unreadable("a usage event", error)) from None
    if extra is None:
        return None
    return _long_text("extra", values.storable_json(extra, "extra"), MAX_EXTRA_CHARACTERS)


def _expect_few_values(text: bytes) -> None:
    """Raises Malformed before anything is decoded. Of signs inside texts there may be any number."""
    if sum(map(text.count, _SIGNS_OF_VALUES)) <= MAX_EXTRA_VALUES:
        return
    place = 0
    for _ in range(MAX_EXTRA_VALUES + 1):
        found = _NEXT_VALUE.match(text, place)
        if found is None:
            return
        place = found.end()
    raise Malformed(f"extra: expected at most {MAX_EXTRA_VALUES} values, came more (each `,`, `[` and `{{` counts)")
