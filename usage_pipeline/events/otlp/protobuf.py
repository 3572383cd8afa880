"""OTLP as protobuf: where the spans are, and what is read of one.

Protobuf's own decoder takes a document as a whole: in one call, which keeps every other thread waiting, and into memory of many
times its size. So it gets one span after the other, and a large one without what nobody reads. Numbers of fields are those of
https://github.com/open-telemetry/opentelemetry-proto/blob/main/opentelemetry/proto/trace/v1/trace.proto
"""

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
from google.protobuf.message import DecodeError
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.resource.v1 import resource_pb2
from opentelemetry.proto.trace.v1 import trace_pb2

from usage_pipeline.events.ingest.json_scan import UnreadableDocument
from usage_pipeline.events.otlp.names import EXCEPTION_EVENT, EXCEPTION_TYPE
from usage_pipeline.events.otlp.parts import (
    MOST_ATTRIBUTES,
    MOST_STRUCTURED_BYTES,
    MOST_VALUE_BYTES,
    SMALL_BYTES,
    Parts,
    expect_few_bytes,
)
from usage_pipeline.events.otlp.places import NOWHERE, Place, SpanPlaces
from usage_pipeline.events.otlp.span import ODD, Attributes, Reading, Span, Value
from usage_pipeline.values import Malformed

_VARINT, _FIXED_64, _LENGTH, _FIXED_32 = 0, 1, 2, 5
_FIXED_BYTES = {_FIXED_64: 8, _FIXED_32: 4}
# A field by its number, if it has a length.
_RESOURCE_SPANS = 1 << 3 | _LENGTH
_RESOURCE, _SCOPE_SPANS = 1 << 3 | _LENGTH, 2 << 3 | _LENGTH
_SPANS = 2 << 3 | _LENGTH
_RESOURCE_ATTRIBUTES = 1 << 3 | _LENGTH
# Ids, times and status; attributes; events.
_SHORT_SPAN_FIELDS = frozenset(
    {1 << 3 | _LENGTH, 2 << 3 | _LENGTH, 7 << 3 | _FIXED_64, 8 << 3 | _FIXED_64, 15 << 3 | _LENGTH}
)
_SPAN_ATTRIBUTES, _SPAN_EVENTS = 9 << 3 | _LENGTH, 11 << 3 | _LENGTH
_EVENT_NAME, _EVENT_ATTRIBUTES = 2 << 3 | _LENGTH, 3 << 3 | _LENGTH
_KEY = 1 << 3 | _LENGTH
_MOST_VARINT_BYTES = 10
_MOST_EVENTS = 128


def spans_in(document: bytes | bytearray, parts: Parts) -> SpanPlaces:
    """Where the spans of an ExportTraceServiceRequest are. Raises UnreadableDocument, TooManyParts and TimeoutError."""
    found = SpanPlaces()
    with memoryview(document) as view:
        for field, _, begin, end in _fields(view, 0, len(view), parts):
            if field == _RESOURCE_SPANS:
                found.close_resource(_spans_of_resource(view, begin, end, found, parts))
    return found


def resource_attributes(document: bytes | bytearray, place: Place, reading: Reading, parts: Parts) -> Attributes:
    """The wanted attributes of a resource. Raises Malformed."""
    with memoryview(document) as view, view[slice(*place)] as part:
        small = (
            bytes(part) if len(part) <= SMALL_BYTES else _pared(part, frozenset(), _RESOURCE_ATTRIBUTES, reading, parts)
        )
    try:
        return _wanted(resource_pb2.Resource.FromString(small).attributes, reading, parts)
    except DecodeError as error:
        raise Malformed(f"resource: expected one that can be decoded, came another ({error})") from None


def span(document: bytes | bytearray, place: Place, reading: Reading, parts: Parts) -> Span:
    """A span. Raises Malformed."""
    begin, end = place
    if end - begin <= SMALL_BYTES:
        small = bytes(document[begin:end])
    else:
        with memoryview(document) as view, view[begin:end] as part:
            small = _pared(part, _SHORT_SPAN_FIELDS, _SPAN_ATTRIBUTES, reading, parts)
    try:
        found = trace_pb2.Span.FromString(small)
    except DecodeError as error:
        raise Malformed(f"expected a span that can be decoded, came another ({error})") from None
    is_error = found.status.code == trace_pb2.Status.STATUS_CODE_ERROR
    return Span(
        found.trace_id.hex(),
        found.span_id.hex(),
        found.start_time_unix_nano,
        found.end_time_unix_nano,
        is_error,
        _exception_type(found.events) if is_error else None,
        _wanted(found.attributes, reading, parts),
    )


def _spans_of_resource(view: memoryview, begin: int, end: int, found: SpanPlaces, parts: Parts) -> Place:
    resource = NOWHERE
    for field, _, first, last in _fields(view, begin, end, parts):
        if field == _RESOURCE:
            resource = (first, last)
        elif field == _SCOPE_SPANS:
            for inner, _, start, stop in _fields(view, first, last, parts):
                if inner == _SPANS:
                    found.add(start, stop)
    return resource


def _wanted(attributes: Any, reading: Reading, parts: Parts) -> Attributes:
    """Protobuf's list of KeyValue. Of a name that comes twice, the last."""
    parts.look_at_decoded(len(attributes))
    is_wanted = reading.is_wanted
    return {name: _value(one.value, name, reading) for one in attributes if is_wanted(name := one.key)}


def _value(value: AnyValue, name: str, reading: Reading) -> Value:
    # Nearly all of them are one of these.
    if text := value.string_value:
        return str(text)
    if number := value.int_value:
        return int(number)
    kind = value.WhichOneof("value")
    if kind is None:
        return None
    found: Any = getattr(value, kind)
    if isinstance(found, str | int | float):
        return found
    if not reading.is_long(name) or value.ByteSize() > MOST_STRUCTURED_BYTES:
        return ODD
    return msgspec.json.encode(_plain(value)).decode()


def _plain(value: AnyValue) -> Any:
    """The same as JSON has it. Protobuf refuses what is nested deeper than 100 times."""
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_plain(one) for one in value.array_value.values]
    if kind == "kvlist_value":
        return {one.key: _plain(one.value) for one in value.kvlist_value.values}
    return None if kind is None else getattr(value, kind)


def _exception_type(events: Iterable[Any]) -> str | None:
    for event in events:
        if event.name == EXCEPTION_EVENT:
            for one in event.attributes:
                if one.key == EXCEPTION_TYPE and one.value.WhichOneof("value") == "string_value":
                    return str(one.value.string_value)
    return None


def _pared(part: memoryview, short: frozenset[int], attributes: int, reading: Reading, parts: Parts) -> bytes:
    """A message with its short fields, the wanted ones of its attributes, and of its events what tells an exception."""
    kept: list[bytes | memoryview] = []
    seen = events = content = 0
    for field, begin, first, end in _fields(part, 0, len(part), parts):
        if field in short and end - first <= MOST_VALUE_BYTES:
            kept.append(part[begin:end])
        elif field == attributes:
            seen += 1
            if seen > MOST_ATTRIBUTES:
                raise Malformed(f"attributes: expected at most {MOST_ATTRIBUTES} of a span, came more")
            name = _key(part, first, end, parts)
            if reading.is_wanted(name) and (end - first <= MOST_VALUE_BYTES or reading.is_long(name)):
                content += end - first if reading.is_long(name) else 0
                expect_few_bytes(content)
                kept.append(part[begin:end])
        elif field == _SPAN_EVENTS and short and events < _MOST_EVENTS:
            events += 1
            inside = b"".join(_of_exception(part, first, end, parts))
            if inside:
                kept.extend((bytes((_SPAN_EVENTS,)), _varint_of(len(inside)), inside))
    return b"".join(kept)


def _of_exception(part: memoryview, begin: int, end: int, parts: Parts) -> Iterator[memoryview]:
    """Of an event its name and the type of its exception."""
    for field, start, first, last in _fields(part, begin, end, parts):
        if last - first <= MOST_VALUE_BYTES and (
            field == _EVENT_NAME or (field == _EVENT_ATTRIBUTES and _key(part, first, last, parts) == EXCEPTION_TYPE)
        ):
            yield part[start:last]


def _key(part: memoryview, begin: int, end: int, parts: Parts) -> str:
    for field, _, first, last in _fields(part, begin, end, parts):
        if field == _KEY and last - first <= MOST_VALUE_BYTES:
            return bytes(part[first:last]).decode(errors="replace")
    return ""


def _fields(view: memoryview, place: int, end: int, parts: Parts) -> Iterator[tuple[int, int, int, int]]:
    """The fields of a message: number and type, where it begins, where its content begins and ends. It raises as `spans_in`."""
    while place < end:
        parts.look()
        begin = place
        # Nearly all of them are a single byte.
        tag = view[place]
        place += 1
        if tag >= 0x80:
            tag, place = _varint(view, begin, end)
        kind = tag & 7
        first = place
        if kind == _LENGTH:
            size, first = _varint(view, place, end)
            place = first + size
        elif kind == _VARINT:
            _, place = _varint(view, place, end)
        elif kind in _FIXED_BYTES:
            place += _FIXED_BYTES[kind]
        else:
            raise UnreadableDocument(f"body: expected protobuf, came a field of type {kind} at byte {begin}")
        if place > end or tag < 8:
            raise UnreadableDocument(
                f"body: expected protobuf, came a field that is none or is cut short at byte {begin}"
            )
        yield tag, begin, first, place


def _varint(view: memoryview, place: int, end: int) -> tuple[int, int]:
    value = shift = 0
    for at in range(place, min(end, place + _MOST_VARINT_BYTES)):
        byte = view[at]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at + 1
        shift += 7
    raise UnreadableDocument(f"body: expected protobuf, came a number that is cut short or too long at byte {place}")


def _varint_of(number: int) -> bytes:
    written = bytearray()
    while number >= 0x80:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    written.append(number)
    return bytes(written)
