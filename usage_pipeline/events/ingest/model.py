"""Usage events and message archives as clients send them (contracts §2), and how they become rows. Pure; no I/O."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import blake2b
from threading import Lock
from types import MappingProxyType
from typing import Annotated, Any, Protocol, cast
from uuid import UUID

import msgspec

from usage_pipeline import values
from usage_pipeline.events.ingest.documents import LONG_ITEM_BYTES
from usage_pipeline.events.ingest.flat_objects import flat_object
from usage_pipeline.events.ingest.large_json import stored_json
from usage_pipeline.events.ingest.long_texts import append_copied
from usage_pipeline.events.ingest.members import (
    MAX_TAG_CHARACTERS,
    MAX_TAG_NAME_CHARACTERS,
    MAX_TAGS,
    Identity,
    cost_text,
    identity,
    optional_text,
    tags_text,
    usage_of,
)
from usage_pipeline.events.units.counts import as_json, count_of
from usage_pipeline.events.units.registry import NAMED_UNITS
from usage_pipeline.settings import Settings
from usage_pipeline.storage.copy_text import NULL, copy_line, escaped
from usage_pipeline.texts import shortened
from usage_pipeline.values import UNREADABLE_JSON, Malformed

# The clock of a client may be ahead by this much (contracts: time window).
CLOCK_AHEAD = timedelta(minutes=5)
# A prompt is kept for a look at it beside the numbers. Whole conversations belong into message archives.
MAX_PROMPT_CHARACTERS = 1_000_000
MAX_EXTRA_CHARACTERS = 1_000_000
MAX_ARCHIVE_CHARACTERS = 16_000_000
MAX_LATENCY_MS = 2**31 - 1
# The most bytes that JSON may need for one character: two escapes such as \ud83d.
_ESCAPED_BYTES = 12
# Everything but the long texts. An item that is no larger than this is decoded without a further look.
_SMALL_BYTES = 16 * 1024
# A provider's whole answer, of which only the usage counts.
MAX_PROVIDER_USAGE_BYTES = 2**20
# Members that may be longer than all others together, with the most bytes that they may have.
_LARGE_MEMBERS = {
    "tags": _ESCAPED_BYTES * MAX_TAGS * (MAX_TAG_NAME_CHARACTERS + MAX_TAG_CHARACTERS) + _SMALL_BYTES,
    "provider_usage": MAX_PROVIDER_USAGE_BYTES,
}
_PIECE_BYTES = 2**20
# The most bytes of an item that can keep the rules. A larger one is refused before it is decoded.
MAX_EVENT_BYTES = (
    _ESCAPED_BYTES * (MAX_PROMPT_CHARACTERS + MAX_EXTRA_CHARACTERS) + sum(_LARGE_MEMBERS.values()) + _SMALL_BYTES
)
# Of an archive it would be 384 MB, several times in memory. Two texts at their limits have 32 MB in ASCII.
MAX_ARCHIVE_BYTES = 64 * 2**20
# In `extra` and each other large member. Each value takes time and memory that its characters do not show: with so many of
# them an event still takes some milliseconds.
MAX_VALUES = 10_000
_SIGNS_OF_VALUES = (b",", b"[", b"{")
# Up to the next sign of a value that is not inside a text.
_NEXT_VALUE = re.compile(rb'(?:[^",\[{]++|"(?:[^"\\]++|\\.)*+")*+[,\[{]', re.DOTALL)
# Who gives the ids of events in files, where these name no source.
LANDING = "landing"
_NULL = msgspec.Raw(b"null")
_NONE = NULL.decode()
_NO_UNITS = f"{_NONE}\t" * len(NAMED_UNITS)
# The last two columns say who gave which id, and are no part of what was sent under it.
_NO_MORE = "\t".join([_NONE] * 13)
_NO_GIVER = "\t".join([_NONE] * 2)
_WIDE_OF_PLAIN = f"\t{_NO_MORE}\t{_NO_GIVER}".encode()
# Characters that COPY text must escape, or that text in PostgreSQL cannot hold. Tabs are missing here: they are counted.
_NOT_PLAIN = re.compile(r"[\\\n\r\0]").search

# What msgspec says of a member that has another type, and what its types are in words.
_WRONG_TYPE = re.compile(
    r"(?:Expected `(?P<type>[^`]+)`, got `[^`]+`|Invalid RFC3339 encoded datetime) - at `\$\.(?P<name>\w+)`"
)
_TIME = "datetime"
_EXPECTED = {
    _TIME: "an ISO-8601 time with its offset, for example 2026-11-20T09:15:00Z",
    "int | float | null": "a whole number",
    "str": "a text",
    "str | null": "a text",
    "object | null": "an object",
}
_SHOWN_CHARACTERS = 60
_SHOWN_BYTES = 4 * _SHOWN_CHARACTERS + 4


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
    """One request to a model. An optional member may also be null.

    An id that is no UUID is unique for its source. Input and output tokens include every unit of `usage` below them.
    """

    event_id: Annotated[str, msgspec.Meta(min_length=1, max_length=values.MAX_ID_CHARACTERS)]
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
    source: str | None = None
    usage: dict[str, int | float | None] | None = None
    provider_usage: dict[str, Any] | None = None
    service_tier: str | None = None
    cost_usd: int | float | str | None = None
    api_key_id: str | None = None
    tags: dict[str, str | None] | None = None


class MessageArchive(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """The whole prompt and response of an event that is already stored; id and source as of that event."""

    event_id: Annotated[str, msgspec.Meta(min_length=1, max_length=values.MAX_ID_CHARACTERS)]
    user_id: str
    service: str
    prompt_full: str | None = None
    response_full: str | None = None
    source: str | None = None


class _ReceivedEvent(UsageEvent):
    """The event as it comes: whole numbers may be written as 10.0 or 1e3, as pandas does where a column has a gap. The extra
    members are text: a short text may become large when it is decoded.
    """

    event_id: str
    total_tokens: int | float | None = None  # type: ignore[assignment]
    input_tokens: int | float | None = None  # type: ignore[assignment]
    output_tokens: int | float | None = None  # type: ignore[assignment]
    latency_ms: int | float | None = None  # type: ignore[assignment]
    status_code: int | float | None = None  # type: ignore[assignment]
    extra: msgspec.Raw = _NULL  # type: ignore[assignment]  # where the parent has decoded members
    usage: dict[str, Any] | None = None
    cost_usd: msgspec.Raw = _NULL  # type: ignore[assignment]  # a float would round it


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


class _NamedUsage(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """A usage object of units that have a column."""

    cache_read_tokens: _Count | None = None
    cache_write_tokens: _Count | None = None
    output_reasoning_tokens: _Count | None = None
    input_audio_tokens: _Count | None = None
    output_audio_tokens: _Count | None = None
    input_image_tokens: _Count | None = None
    output_image_tokens: _Count | None = None


_Text = Annotated[str, msgspec.Meta(max_length=values.MAX_ID_CHARACTERS)]


class _WideEvent(_PlainEvent):
    """An event with more members, decoded only if each single value keeps its rule."""

    event_id: _Id  # type: ignore[assignment]
    source: _Text | None = None
    usage: _NamedUsage | None = None
    service_tier: _Text | None = None
    cost_usd: msgspec.Raw = _NULL
    api_key_id: _Text | None = None
    tags: dict[str, str | None] | None = None


class Item(msgspec.Struct, frozen=True, gc=False):
    """A valid item: its id, the time (archives have none), the hash in hex digits, and its other columns as COPY text.

    `is_wide`: the payload of an event has the columns after `extra`, too.
    """

    event_id: UUID
    event_time: datetime | None
    payload_hash: str
    payload: bytes | bytearray
    is_wide: bool = False

    def wide_payload(self) -> bytes | bytearray:
        """The payload of an event with all columns."""
        return self.payload if self.is_wide else self.payload + _WIDE_OF_PLAIN

    def staged(self, position: int) -> Iterator[bytes | memoryview]:
        """The line of its staging table, in pieces: no second copy of a large one."""
        time = "" if self.event_time is None else f"{self.event_time.isoformat()}\t"
        head = f"{position}\t{self.event_id.int:032x}\t\\\\x{self.payload_hash}\t{time}".encode()
        payload = self.payload if self.event_time is None else self.wide_payload()
        if len(payload) <= _SMALL_BYTES:
            yield b"".join((head, payload, b"\n"))
            return
        yield head
        whole = memoryview(payload)
        for first in range(0, len(whole), _PIECE_BYTES):
            yield whole[first : first + _PIECE_BYTES]
        yield b"\n"


_Json = bytes | memoryview | msgspec.Raw


class Parse(Protocol):
    """How an item of a kind is read. `sender` gives the ids that are no UUIDs, where the item names no source."""

    def __call__(self, item: _Json, window: EventWindow, sender: str = LANDING, /) -> Item: ...


def _written(model: type[msgspec.Struct]) -> Callable[[_Json], Any]:
    """Decodes an item into its members as they are written."""
    fields = [(name, msgspec.Raw, msgspec.UNSET) for name in model.__struct_fields__]
    members = msgspec.defstruct(model.__name__, fields, forbid_unknown_fields=True, gc=False)
    return msgspec.json.Decoder(members).decode


_decode_plain = msgspec.json.Decoder(_PlainEvent).decode
_decode_wide = msgspec.json.Decoder(_WideEvent).decode
_decode_event = msgspec.json.Decoder(_ReceivedEvent).decode
_decode_extra = msgspec.json.Decoder(dict[str, Any] | None).decode
_decode_archive = msgspec.json.Decoder(MessageArchive).decode
written_event = _written(UsageEvent)
written_archive = _written(MessageArchive)
# A large value may be 24 times as large once it is decoded; one after the other.
_one_at_a_time = Lock()


def parse_event(item: _Json, window: EventWindow, sender: str = LANDING) -> Item:
    """The JSON of an event -> its row in the column order of `sql/events/ingest/stage_usage_event.sql`. Raises Malformed.

    `sender` gives the ids where the event names no source. Nearly all events are plain, and their line is put together here
    in a third of the time that `_parse_any_event` takes for the same line.
    """
    if memoryview(item).nbytes > _SMALL_BYTES:
        return _parse_large_event(item, window, sender)
    try:
        event = _decode_plain(item)
    except UNREADABLE_JSON:
        return _parse_wide_event(item, window, sender)
    short = _short_line(event, window)
    if short is None:
        return _parse_any_event(item, window, sender)
    payload = short.encode()
    return Item(event.event_id, event.event_time, _hash(payload), payload)


def _parse_wide_event(item: _Json, window: EventWindow, sender: str) -> Item:
    """The same for an event with members that most do not have, unless something about it needs a closer look."""
    try:
        event = _decode_wide(item)
    except UNREADABLE_JSON:
        return _parse_any_event(item, window, sender)
    short = _short_line(event, window)
    units = _NO_UNITS if event.usage is None else _units_line(event.usage, event.input_tokens, event.output_tokens)
    tier, key = event.service_tier or None, event.api_key_id or None
    texts = f"{tier}\t{key}"
    if short is None or units is None or texts.count("\t") != 1 or _NOT_PLAIN(texts):
        return _parse_any_event(item, window, sender)
    cost, tags = cost_text(event.cost_usd), tags_text(event.tags)
    more = (
        f"{units}{_NONE}\t{_NONE}\t{_NONE if tier is None else tier}\t{_NONE if cost is None else cost}"
        f"\t{_NONE if key is None else key}\t{_NONE if tags is None else escaped(tags).decode()}"
    )
    return _item(identity(event.event_id, event.source, sender), event.event_time, short.encode(), more.encode())


def _short_line(event: _PlainEvent, window: EventWindow) -> str | None:
    """The columns of a plain event; None when something about it needs a closer look."""
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
        return None
    latency, status = event.latency_ms, event.status_code
    return (
        f"{texts}\t{_NONE if entered is None else entered}\t{_NONE if left is None else left}\t{total}"
        f"\t{_NONE if latency is None else latency}\t{_NONE if status is None else status}"
        f"\t{_NONE if error is None else error}\t{_NONE}\t{_NONE}"
    )


def _units_line(usage: _NamedUsage, entered: int | None, left: int | None) -> str | None:
    """The columns of named units; None when their wholes are not told, are too small, or parts of them may overlap."""
    read, written = usage.cache_read_tokens or 0, usage.cache_write_tokens or 0
    heard, seen = usage.input_audio_tokens or 0, usage.input_image_tokens or 0
    thought, spoken, drawn = (
        usage.output_reasoning_tokens or 0,
        usage.output_audio_tokens or 0,
        usage.output_image_tokens or 0,
    )
    if (
        entered is None
        or left is None
        or ((read or written) and (heard or seen))
        or (thought and (spoken or drawn))
        or read + written + heard + seen > entered
        or thought + spoken + drawn > left
    ):
        return None
    counts = (read, written, thought, heard, spoken, seen, drawn)
    return "".join([f"{count}\t" if count else f"{_NONE}\t" for count in counts])


def _item(known: Identity, at: datetime, short: bytes, more: bytes) -> Item:
    """An event with all that its row has; as narrow as it can be."""
    has_more = more != _NO_MORE.encode()
    payload_hash = _hash(b"%b\t%b" % (short, more) if has_more else short)
    if not has_more and known.source is None:
        return Item(known.event_id, at, payload_hash, short)
    payload = b"\t".join((short, more, copy_line((known.source, known.external_id))))
    return Item(known.event_id, at, payload_hash, payload, is_wide=True)


def _parse_large_event(item: _Json, window: EventWindow, sender: str) -> Item:
    small, long_texts = _parted("a usage event", item, MAX_EVENT_BYTES, written_event, ("prompt", "extra"))
    with _one_at_a_time:
        return _parse_any_event(small, window, sender, long_texts)


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
        _expect_small(name, text)
    return msgspec.json.encode(members), long_texts


def _expect_small(name: str, text: msgspec.Raw) -> None:
    most = _LARGE_MEMBERS.get(name, _SMALL_BYTES)
    if (size := memoryview(text).nbytes) > most:
        raise Malformed(f"{name[:100]}: expected at most {most} bytes, came {size}")
    if size > MAX_VALUES:
        _expect_few_values(name, text)


def _parse_any_event(
    item: _Json,
    window: EventWindow,
    sender: str = LANDING,
    long_texts: Mapping[str, msgspec.Raw] = MappingProxyType({}),
) -> Item:
    """Checks one rule after the other, and so finds the reason of a refusal. `long_texts` are members beside the item."""
    try:
        event = _decode_event(item)
    except UNREADABLE_JSON as error:
        raise Malformed(_of_wrong_type(error, item, written_event) or _unreadable("a usage event", error)) from None
    known = identity(event.event_id, event.source, sender)
    at = _event_time(event.event_time, window)
    texts = (
        values.identifier_text("user_id", event.user_id),
        values.identifier_text("team", event.team),
        values.identifier_text("service", event.service),
        provider := values.identifier_text("provider", event.provider),
        model := values.identifier_text("model", event.model),
    )
    usage = usage_of(
        provider,
        model,
        entered=_tokens("input_tokens", event.input_tokens),
        left=_tokens("output_tokens", event.output_tokens),
        total=_tokens("total_tokens", event.total_tokens),
        usage=event.usage,
        provider_usage=event.provider_usage,
    )
    short = copy_line(
        (
            *texts,
            usage.input_tokens,
            usage.output_tokens,
            usage.total_tokens,
            _within("latency_ms", event.latency_ms, 0, MAX_LATENCY_MS),
            _within("status_code", event.status_code, 100, 599),
            optional_text("error_type", event.error_type),
        )
    )
    if "prompt" in long_texts:
        prompt: bytes | bytearray = bytearray()
        _copied(cast(bytearray, prompt), "a usage event", "prompt", long_texts["prompt"], MAX_PROMPT_CHARACTERS)
    else:
        prompt = copy_line((_long_text("prompt", event.prompt, MAX_PROMPT_CHARACTERS),))
    extra = copy_line((_extra(long_texts.get("extra", event.extra)),))
    more = copy_line(
        (
            *usage.named,
            usage.unattributed_tokens,
            as_json(usage.others) if usage.others else None,
            optional_text("service_tier", event.service_tier),
            cost_text(event.cost_usd),
            optional_text("api_key_id", event.api_key_id),
            tags_text(event.tags),
        )
    )
    return _item(known, at, b"\t".join((short, prompt, extra)), more)


def with_source(item: bytes, sender: str) -> bytes:
    """A valid item that says itself who gave its id, if that is no UUID: kept apart, it has the same id for every reader."""
    members = msgspec.json.decode(item, type=dict[str, msgspec.Raw])
    event_id, source = (msgspec.json.decode(members.get(name, _NULL)) for name in ("event_id", "source"))
    if source or identity(event_id, None, sender).external_id is None:
        return item
    return msgspec.json.encode(members | {"source": msgspec.Raw(msgspec.json.encode(sender))})


def parse_archive(item: _Json, window: EventWindow, sender: str = LANDING) -> Item:
    """The JSON of an archive -> its row in the column order of `stage_message_archive.sql`. Raises Malformed."""
    if memoryview(item).nbytes > _SMALL_BYTES:
        return _parse_large_archive(item, sender)
    try:
        archive = _decode_archive(item)
    except UNREADABLE_JSON as error:
        raise Malformed(
            _of_wrong_type(error, item, written_archive) or _unreadable("a message archive", error)
        ) from None
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
    known = identity(archive.event_id, archive.source, sender)
    return Item(known.event_id, None, _hash(payload), payload)


def _parse_large_archive(item: _Json, sender: str) -> Item:
    names = ("prompt_full", "response_full")
    small, long_texts = _parted_archive(memoryview(item), names)
    try:
        archive = _decode_archive(small)
    except UNREADABLE_JSON as error:
        raise Malformed(
            _of_wrong_type(error, small, written_archive) or _unreadable("a message archive", error)
        ) from None
    payload = bytearray(
        copy_line(
            (values.identifier_text("user_id", archive.user_id), values.identifier_text("service", archive.service))
        )
    )
    has_text = False
    for name in names:
        payload += b"\t"
        has_text |= _copied(payload, "a message archive", name, long_texts.get(name, _NULL), MAX_ARCHIVE_CHARACTERS)
    if not has_text:
        raise Malformed("prompt_full, response_full: expected at least one of them, came none")
    known = identity(archive.event_id, archive.source, sender)
    return Item(known.event_id, None, _hash(payload), payload)


def _parted_archive(item: memoryview, names: tuple[str, ...]) -> tuple[bytes, Mapping[str, _Json]]:
    """The same as _parted. Of a very large one nothing is decoded as a whole: everybody else would wait."""
    flat = flat_object(item) if MAX_ARCHIVE_BYTES >= item.nbytes >= LONG_ITEM_BYTES else None
    if flat is None:
        return _parted("a message archive", item, MAX_ARCHIVE_BYTES, written_archive, names)
    long_texts = {name: item[slice(*flat.members.pop(name))] for name in names if name in flat.members}
    members = {name: msgspec.Raw(bytes(item[first:end])) for name, (first, end) in flat.members.items()}
    for name, text in members.items():
        _expect_small(name, text)
    return msgspec.json.encode(members), long_texts


def _copied(line: bytearray, what: str, name: str, text: _Json, most: int) -> bool:
    try:
        return append_copied(line, name, memoryview(text), most)
    except UNREADABLE_JSON as error:
        raise Malformed(_unreadable(what, error)) from None


def _hash(payload: bytes | bytearray) -> str:
    """A hash of everything except id and time: a retry may have its own time."""
    return blake2b(payload, digest_size=16).hexdigest()


def _of_wrong_type(error: Exception, item: _Json, written: Callable[[_Json], Any]) -> str | None:
    """What a member should be and what it is; None for another fault. The decoder names types that only programmers know."""
    found = _WRONG_TYPE.fullmatch(str(error))
    expected = None if found is None else _EXPECTED.get(found["type"] or _TIME)
    if found is None or expected is None:
        return None
    try:
        came = getattr(written(item), found["name"])
    except UNREADABLE_JSON:
        return None
    text = bytes(memoryview(came)[:_SHOWN_BYTES]).decode(errors="replace")
    return f"{found['name']}: expected {expected}, came {shortened(text, _SHOWN_CHARACTERS)}"


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


def _tokens(name: str, count: int | float | None) -> int | None:
    return _within(name, count, 0, values.MAX_COUNT)


def _within(name: str, number: int | float | None, least: int, most: int) -> int | None:
    return None if number is None else int(count_of(name, number, least=least, most=most))


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
    if size > MAX_VALUES:
        _expect_few_values("extra", text)
    try:
        extra = stored_json("extra", text) if size > _SMALL_BYTES else _decode_extra(text)
        # Writing it takes a level more than reading it, so this may find it nested too deeply, too.
        stored = values.storable_json(extra, "extra") if isinstance(extra, dict) else extra
    except UNREADABLE_JSON as error:
        raise Malformed(_unreadable("a usage event", error)) from None
    return _long_text("extra", stored, MAX_EXTRA_CHARACTERS)


def _expect_few_values(name: str, raw: msgspec.Raw) -> None:
    """Raises Malformed before anything is decoded. Of signs inside texts there may be any number."""
    text = bytes(raw)
    if sum(map(text.count, _SIGNS_OF_VALUES)) <= MAX_VALUES:
        return
    place = 0
    for _ in range(MAX_VALUES + 1):
        found = _NEXT_VALUE.match(text, place)
        if found is None:
            return
        place = found.end()
    raise Malformed(f"{name}: expected at most {MAX_VALUES} values, came more (each `,`, `[` and `{{` counts)")
