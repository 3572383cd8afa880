"""Every parser that reads what others wrote. Each function takes any bytes, and raises when what must always hold does not."""

import gzip
import io
import json
import re
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from usage_pipeline.api.ingest.bodies import decompressed
from usage_pipeline.api.problems import Problem
from usage_pipeline.drain.batch import Batch, Origin, WrongType, new_batch_id, parse_batch, raw_value
from usage_pipeline.drain.event_queue import page_of, parse_page
from usage_pipeline.drain.families import BY_NAME
from usage_pipeline.drain.members import Value
from usage_pipeline.events.files.json_items import json_items
from usage_pipeline.events.files.names import FileKind
from usage_pipeline.events.files.packed import BrokenFile
from usage_pipeline.events.ingest.documents import items_of
from usage_pipeline.events.ingest.model import EventWindow, parse_archive, parse_event
from usage_pipeline.events.otlp.document import TraceRequest
from usage_pipeline.events.otlp.mapping import Rules
from usage_pipeline.events.otlp.parts import TooManyParts
from usage_pipeline.settings import Settings
from usage_pipeline.values import Malformed, PossibleTimes

_NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)
_CLAIMED_MS = 1_772_452_800_000
_WINDOW = EventWindow.around(_NOW, Settings(retention_days=180))
_TIMES = PossibleTimes(180)
_MOST_ITEMS, _MOST_BYTES = 1_000, 2**20
# Between the parts of an input of several parts, such as a key and its value.
SEPARATOR = b"\xff\xfe"
_KINDS = tuple(FileKind(content, packing) for content in ("lines", "document") for packing in ("", "gz", "zst"))
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\"}


def usage_events(data: bytes) -> None:
    """A body of usage events."""
    _items(data, "events", parse_event, ("user_id", "team", "service", "provider", "model"), columns=28)


def message_archives(data: bytes) -> None:
    """A body of message archives."""
    _items(data, "archives", parse_archive, ("user_id", "service"), columns=4)


def gzip_body(data: bytes) -> None:
    """A body that says that it is gzip."""
    try:
        whole = decompressed(data, most=_MOST_BYTES)
    except Problem:
        return
    assert len(whole) <= _MOST_BYTES
    assert whole == gzip.decompress(data)


def counters(data: bytes) -> None:
    """Claimed keys: the family, a key, its value, and so on. A value of several parts is a hash."""
    name, *parts = data.split(SEPARATOR)
    family = BY_NAME[sorted(BY_NAME)[(name[0] if name else 0) % len(BY_NAME)]]
    claims: dict[bytes, Value | WrongType] = {}
    for middle, value in zip(parts[::2], parts[1::2], strict=False):
        fields = value.split(b"\0")
        key = family.prefix + middle + family.suffix
        if family.redis_type == b"string":
            claims[key] = value
        else:
            claims[key] = fields if len(fields) % 2 == 0 else WrongType("string", value)
    batch = parse_batch(family, _origin(), [*claims.items()], times=_TIMES)
    assert batch.keys == [*claims]
    refused = [letter for letter in batch.dead_letters if letter.member is None]
    assert len(batch.lines) + len(refused) == len(claims)
    for letter in refused:
        value, kept = claims[letter.source_key], raw_value(letter.raw, letter.raw_format)
        assert kept == value or (isinstance(value, WrongType) and letter.raw == value.dump)
    _check_batch(batch)


def event_queue(data: bytes) -> None:
    """Items of the event queue."""
    items = data.split(SEPARATOR)
    page = parse_page(page_of(_origin(), 0), 0, items, times=_TIMES)
    refused = [letter for letter in page.dead_letters if letter.member is None]
    assert len(page.lines) + len(refused) == len(items)
    for letter in refused:
        assert letter.raw == items[letter.position or 0]
    _check_batch(page)


def landed_files(data: bytes) -> None:
    """The content of a landed file; the first byte chooses the name."""
    kind = _KINDS[data[0] % len(_KINDS)] if data else _KINDS[0]
    size = 0
    try:
        for _, item in json_items(io.BytesIO(data[1:]), kind, "events", _MOST_BYTES):
            size += len(item)
            if kind.content == "document":
                assert size <= _MOST_BYTES
    except BrokenFile as broken:
        _check_reason(str(broken))


def traces(data: bytes) -> None:
    """A request of OTLP; the first byte chooses the encoding. The official decoder, and json, are the other opinion."""
    is_json, document = bool(data[:1]) and data[0] % 2 == 1, data[1:]
    rules = Rules.of(Settings(otlp_keep_content=True))
    try:
        found = TraceRequest(document, is_json=is_json, rules=rules, deadline=time.monotonic() + 60)
    except (Malformed, TooManyParts) as refused:
        _check_reason(str(refused))
        assert not _is_request(document, is_json)
        return
    for reason in found.refusals.reasons:
        _check_reason(reason)
    if (spans := _spans_in(document, is_json)) is not None:
        assert len(found) == spans
    for batch in found.batches(_MOST_ITEMS):
        for item in batch:
            assert {"event_id", "team", "model"} <= json.loads(item).keys()
        for archives in batch.archives(_MOST_BYTES, without=set()):
            assert all(json.loads(archive).keys() >= {"prompt_full", "response_full"} for archive in archives)


def _is_request(document: bytes, is_json: bool) -> bool:
    """Whether nobody could refuse it. Protobuf passes over a few things that are none, such as groups."""
    if not is_json:
        return False
    try:
        return isinstance(json.loads(document.decode()), dict)
    except (ValueError, RecursionError):
        return False


def _spans_in(document: bytes, is_json: bool) -> int | None:
    """How many spans others find; None where they find no request, or one that they may understand otherwise."""
    try:
        if not is_json:
            request = ExportTraceServiceRequest.FromString(document)
            return sum(len(scope.spans) for one in request.resource_spans for scope in one.scope_spans)
        whole = json.loads(document.decode(), object_pairs_hook=_unambiguous)
        return sum(
            isinstance(span, dict)
            for one in _listed(whole, "resourceSpans")
            for scope in _listed(one, "scopeSpans")
            for span in _listed(scope, "spans")
        )
    except (DecodeError, ValueError, RecursionError):
        return None


def _listed(value: Any, member: str) -> list[Any]:
    found = value.get(member) if isinstance(value, dict) else None
    return found if isinstance(found, list) else []


def _unambiguous(members: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(members)
    if len(found) < len(members):
        raise ValueError("a name that comes twice")
    return found


PARSERS: dict[str, Callable[[bytes], None]] = {
    parser.__name__: parser
    for parser in (usage_events, message_archives, gzip_body, counters, event_queue, landed_files, traces)
}


def _items(data: bytes, member: str, parse: Callable[..., Any], names: Iterable[str], columns: int) -> None:
    try:
        items = items_of(data, member, most=_MOST_ITEMS)
    except Malformed as malformed:
        _check_reason(str(malformed))
        return
    assert len(items) <= _MOST_ITEMS
    for item in map(bytes, items):
        try:
            parsed = parse(item, _WINDOW)
        except Malformed as malformed:
            _check_reason(str(malformed))
            continue
        row = _row(parsed.payload if parsed.event_time is None else parsed.wide_payload())
        assert len(row) == columns
        # The standard library is the other opinion.
        meant = json.loads(item)
        assert [meant[name] for name in names] == row[: len([*names])]
        _row(b"".join(parsed.staged(0)).rstrip(b"\n"))


def _origin() -> Origin:
    return Origin.of_claim(new_batch_id(_CLAIMED_MS), "s", is_uncertain=False)


def _check_batch(batch: Batch) -> None:
    widths = {len(_row(line)) for line in batch.lines}
    assert len(widths) <= 1, widths
    for letter in batch.dead_letters:
        _check_reason(letter.reason)


def _row(line: bytes) -> list[str | None]:
    """The fields of a line of COPY text, as the manual of PostgreSQL describes it."""
    text = line.decode()
    assert "\n" not in text
    assert "\r" not in text
    assert "\0" not in text
    return [
        None if field == "\\N" else _ESCAPED.sub(lambda found: _ESCAPES[found[1]], field) for field in text.split("\t")
    ]


def _check_reason(reason: str) -> None:
    """It can be stored and shown: what the caller sent is quoted in part only."""
    assert reason.encode()
    assert "\0" not in reason
    assert len(reason) < 2_000, len(reason)
