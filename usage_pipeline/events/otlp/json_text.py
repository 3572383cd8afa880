"""OTLP as JSON: where the spans are, and what is read of one. Ids are in hexadecimal digits, whole numbers may be texts.

A decoder would take a document as a whole, and refuse all of it for half a character in a prompt. So it is looked through step
by step, and decoded is one span after the other; a large or odd one without what nobody reads.
"""

import re
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from usage_pipeline import values
from usage_pipeline.events.ingest.json_scan import Reader, Scan, UnreadableDocument
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
from usage_pipeline.values import UNREADABLE_JSON, Malformed

_Document = bytes | bytearray
_STATUS_ERROR = (2, "STATUS_CODE_ERROR")
_DIGITS = re.compile(r"-?[0-9]{1,40}")
_MOST_EVENTS = 128
# Whoever decodes Raw gets null as it is written.
_NOTHING = msgspec.Raw(b"null")


class _Any(msgspec.Struct, gc=False):
    """An AnyValue."""

    stringValue: str | None = None  # noqa: N815  # names of the protocol
    boolValue: bool | None = None  # noqa: N815
    intValue: int | str | None = None  # noqa: N815
    doubleValue: int | float | str | None = None  # noqa: N815
    arrayValue: msgspec.Raw = _NOTHING  # noqa: N815
    kvlistValue: msgspec.Raw = _NOTHING  # noqa: N815
    bytesValue: str | None = None  # noqa: N815


class _Attribute(msgspec.Struct, gc=False):
    key: str | None = None
    value: _Any | None = None


class _Event(msgspec.Struct, gc=False):
    name: str | None = None
    attributes: list[_Attribute] | None = None


class _Status(msgspec.Struct, gc=False):
    code: int | str | None = None


class _Span(msgspec.Struct, gc=False):
    traceId: str | None = None  # noqa: N815
    spanId: str | None = None  # noqa: N815
    startTimeUnixNano: int | str | None = None  # noqa: N815
    endTimeUnixNano: int | str | None = None  # noqa: N815
    status: _Status | None = None
    attributes: list[_Attribute] | None = None
    events: list[_Event] | None = None


class _Resource(msgspec.Struct, gc=False):
    attributes: list[_Attribute] | None = None


_decode_span = msgspec.json.Decoder(_Span).decode
_decode_resource = msgspec.json.Decoder(_Resource).decode
_decode_text = msgspec.json.Decoder(str).decode
_SHORT_SPAN_MEMBERS = frozenset({b"traceId", b"spanId", b"startTimeUnixNano", b"endTimeUnixNano", b"status"})


def spans_in(document: _Document, parts: Parts) -> SpanPlaces:
    """Where the spans of an ExportTraceServiceRequest are. Raises UnreadableDocument, TooManyParts and TimeoutError."""
    found = SpanPlaces()
    scan = Scan(document, parts.look)

    def span_place(place: int) -> int:
        end = scan.value(place)
        if document[place : place + 1] == b"{":
            found.add(place, end)
        return end

    def scope_spans(place: int) -> int:
        return scan.members(place, {b"spans": lambda at: scan.items(at, span_place)})

    def resource_spans(place: int) -> int:
        resource = NOWHERE

        def resource_place(at: int) -> int:
            nonlocal resource
            resource = (at, scan.value(at))
            return resource[1]

        readers: dict[bytes, Reader] = {
            b"resource": resource_place,
            b"scopeSpans": lambda at: scan.items(at, scope_spans),
        }
        end = scan.members(place, readers)
        found.close_resource(resource)
        return end

    begin = scan.after_space(0)
    if document[begin : begin + 1] != b"{":
        raise UnreadableDocument("body: expected an ExportTraceServiceRequest as a JSON object, came another value")
    end = scan.members(begin, {b"resourceSpans": lambda at: scan.items(at, resource_spans)})
    if scan.after_space(end) != len(document):
        raise scan.unreadable(end)
    return found


def resource_attributes(document: _Document, place: Place, reading: Reading, parts: Parts) -> Attributes:
    """The wanted attributes of a resource. Raises Malformed."""
    if place == NOWHERE:
        return {}
    found: _Resource = _decoded("resource", _decode_resource, document, place, reading, parts)
    return _wanted(found.attributes, reading, parts)


def span(document: _Document, place: Place, reading: Reading, parts: Parts) -> Span:
    """A span. Raises Malformed."""
    found: _Span = _decoded("span", _decode_span, document, place, reading, parts)
    is_error = found.status is not None and found.status.code in _STATUS_ERROR
    return Span(
        (found.traceId or "").lower(),
        (found.spanId or "").lower(),
        _nanoseconds("startTimeUnixNano", found.startTimeUnixNano),
        _nanoseconds("endTimeUnixNano", found.endTimeUnixNano),
        is_error,
        _exception_type(found.events) if is_error else None,
        _wanted(found.attributes, reading, parts),
    )


def _decoded(
    what: str, decode: Callable[[bytes], Any], document: _Document, place: Place, reading: Reading, parts: Parts
) -> Any:
    begin, end = place
    if end - begin <= SMALL_BYTES:
        with memoryview(document) as view:
            try:
                return decode(view[begin:end])  # type: ignore[arg-type]  # msgspec takes any buffer
            except UNREADABLE_JSON:
                # Perhaps the fault is in what nobody reads.
                pass
    try:
        return decode(_pared(document, begin, reading, parts))
    except UNREADABLE_JSON as error:
        raise Malformed(
            f"{what}: expected one that can be read, came one with a fault: {values.described(error)}"
        ) from None


def _wanted(attributes: list[_Attribute] | None, reading: Reading, parts: Parts) -> Attributes:
    if not attributes:
        return {}
    parts.look_at_decoded(len(attributes))
    is_wanted = reading.is_wanted
    return {
        name: None if one.value is None else _value(one.value, reading.is_long(name))
        for one in attributes
        if (name := one.key) is not None and is_wanted(name)
    }


def _value(value: _Any, is_long: bool) -> Value:
    if value.stringValue is not None:
        return value.stringValue
    if value.intValue is not None:
        return _number(value.intValue)
    if value.doubleValue is not None:
        return _number(value.doubleValue)
    if value.boolValue is not None:
        return value.boolValue
    for structure in (value.arrayValue, value.kvlistValue):
        with memoryview(structure) as text:
            if bytes(text[:1]) != b"n":
                return bytes(text).decode(errors="replace") if is_long and len(text) <= MOST_STRUCTURED_BYTES else ODD
    return None if value.bytesValue is None else ODD


def _number(number: float | str) -> float | str:
    if isinstance(number, str):
        return int(number) if _DIGITS.fullmatch(number) else number
    return number


def _nanoseconds(name: str, number: int | str | None) -> int:
    found = _number(number or 0)
    if not isinstance(found, int) or found < 0:
        raise Malformed(f"{name}: expected nanoseconds since 1970, came {values.described(ValueError(str(number)))}")
    return found


def _exception_type(events: Iterable[_Event] | None) -> str | None:
    for event in events or ():
        if event.name == EXCEPTION_EVENT:
            for one in event.attributes or ():
                if one.key == EXCEPTION_TYPE and one.value is not None:
                    return one.value.stringValue
    return None


def _pared(document: _Document, place: int, reading: Reading, parts: Parts) -> bytes:
    """A span or a resource with its short members, the wanted ones of its attributes, and what tells an exception."""
    scan = Scan(document, parts.look)
    attributes: list[bytes] = []
    events: list[bytes] = []
    members: list[bytes] = []
    seen = content = 0

    def attribute(at: int) -> int:
        nonlocal seen, content
        seen += 1
        if seen > MOST_ATTRIBUTES:
            raise Malformed(f"attributes: expected at most {MOST_ATTRIBUTES} of a span, came more")
        name, end = _key(document, at, scan)
        if reading.is_wanted(name) and (end - at <= MOST_VALUE_BYTES or reading.is_long(name)):
            content += end - at if reading.is_long(name) else 0
            expect_few_bytes(content)
            attributes.append(bytes(document[at:end]))
        return end

    def event(at: int) -> int:
        end, found = _of_exception(document, at, scan)
        if found and len(events) < _MOST_EVENTS:
            events.append(found)
        return end

    def short(name: bytes) -> Reader:
        def reader(at: int) -> int:
            end = scan.value(at)
            if end - at <= MOST_VALUE_BYTES:
                members.append(b'"%b":%b' % (name, bytes(document[at:end])))
            return end

        return reader

    readers: dict[bytes, Reader] = {name: short(name) for name in _SHORT_SPAN_MEMBERS}
    readers[b"attributes"] = lambda at: scan.items(at, attribute)
    readers[b"events"] = lambda at: scan.items(at, event)
    scan.members(place, readers)
    members += (b'"attributes":[%b]' % b",".join(attributes), b'"events":[%b]' % b",".join(events))
    return b"{%b}" % b",".join(members)


def _key(document: _Document, place: int, scan: Scan) -> tuple[str, int]:
    """The key of an attribute, empty if it has none; and the place after the attribute."""
    found = ""

    def key(at: int) -> int:
        nonlocal found
        end = scan.value(at)
        if end - at <= MOST_VALUE_BYTES and document[at : at + 1] == b'"':
            try:
                found = _decode_text(bytes(document[at:end]))
            except UNREADABLE_JSON:
                found = ""
        return end

    end = scan.members(place, {b"key": key})
    return found, end


def _of_exception(document: _Document, place: int, scan: Scan) -> tuple[int, bytes]:
    """The place after the event of a span; and the event, if it is one of an exception, with nothing but its type."""
    name = b""
    types: list[bytes] = []

    def event_name(at: int) -> int:
        nonlocal name
        end = scan.value(at)
        name = bytes(document[at : min(end, at + MOST_VALUE_BYTES)])
        return end

    def attribute(at: int) -> int:
        key, end = _key(document, at, scan)
        if key == EXCEPTION_TYPE and end - at <= MOST_VALUE_BYTES:
            types.append(bytes(document[at:end]))
        return end

    end = scan.members(place, {b"name": event_name, b"attributes": lambda at: scan.items(at, attribute)})
    if name != b'"%b"' % EXCEPTION_EVENT.encode() or not types:
        return end, b""
    return end, b'{"name":%b,"attributes":[%b]}' % (name, types[0])
