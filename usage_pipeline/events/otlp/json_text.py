"""OTLP as JSON: where the spans are, and what is read of one. Ids are in hexadecimal digits, whole numbers may be texts.

A decoder would take a document as a whole, and refuse all of it for half a character in a prompt. So it is looked through step
by step, and decoded is one span after the other; a large or odd one without what nobody reads.
"""

import re
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from usage_pipeline import values
from usage_pipeline.events.otlp.names import EXCEPTION_EVENT, EXCEPTION_TYPE
from usage_pipeline.events.otlp.parts import (
    MOST_ATTRIBUTES,
    MOST_STRUCTURED_BYTES,
    MOST_VALUE_BYTES,
    SMALL_BYTES,
    Parts,
    Unreadable,
    expect_few_bytes,
)
from usage_pipeline.events.otlp.places import NOWHERE, Place, SpanPlaces
from usage_pipeline.events.otlp.span import ODD, Attributes, Reading, Span, Value
from usage_pipeline.values import UNREADABLE_JSON, Malformed

_Document = bytes | bytearray
# Reads a value at a place, and gives the place after it.
_Reader = Callable[[int], int]
# A step takes a millisecond.
_STEP_BYTES = 2**17
_DEPTH_AT_ONCE = 12
_STATUS_ERROR = (2, "STATUS_CODE_ERROR")
_DIGITS = re.compile(r"-?[0-9]{1,40}")
_SPACE = re.compile(rb"[ \t\n\r]*+")
# Nothing is one of them, too: at the end of the document.
_SPACES = b" \t\n\r"
_TEXT = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_WHOLE_TEXT = re.compile(_TEXT, re.DOTALL)
_INSIDE_TEXT = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
_PLAIN = re.compile(rb'[^"\[\]{}]*+')
_SHORT = re.compile(rb'[^\[\]{},":\s]{1,64}')
_MOST_EVENTS = 128


def _nested() -> bytes:
    inside = rb'[^"\[\]{}]*+'
    for _ in range(_DEPTH_AT_ONCE):
        inside = rb'(?:[^"\[\]{}]++|' + _TEXT + rb"|[\[{]" + inside + rb"[\]}])*+"
    return rb"[\[{]" + inside + rb"[\]}]"


# An object or an array that is not large and not deep, in one step.
_WHOLE = re.compile(_nested(), re.DOTALL)


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
    """Where the spans of an ExportTraceServiceRequest are. Raises Unreadable, TooManyParts and TimeoutError."""
    found = SpanPlaces()
    scan = _Scan(document, parts)

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

        readers: dict[bytes, _Reader] = {
            b"resource": resource_place,
            b"scopeSpans": lambda at: scan.items(at, scope_spans),
        }
        end = scan.members(place, readers)
        found.close_resource(resource)
        return end

    begin = scan.after_space(0)
    if document[begin : begin + 1] != b"{":
        raise Unreadable("body: expected an ExportTraceServiceRequest as a JSON object, came another value")
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
    scan = _Scan(document, parts)
    attributes: list[bytes] = []
    events: list[bytes] = []
    members: list[bytes] = []
    seen = content = 0

    def attribute(at: int) -> int:
        nonlocal seen, content
        seen += 1
        if seen > MOST_ATTRIBUTES:
            raise Malformed(f"attributes: expected at most {MOST_ATTRIBUTES} of a span, came more")
        name, end = scan.key(at)
        if reading.is_wanted(name) and (end - at <= MOST_VALUE_BYTES or reading.is_long(name)):
            content += end - at if reading.is_long(name) else 0
            expect_few_bytes(content)
            attributes.append(bytes(document[at:end]))
        return end

    def event(at: int) -> int:
        end, found = scan.event(at)
        if found and len(events) < _MOST_EVENTS:
            events.append(found)
        return end

    def short(name: bytes) -> _Reader:
        def reader(at: int) -> int:
            end = scan.value(at)
            if end - at <= MOST_VALUE_BYTES:
                members.append(b'"%b":%b' % (name, bytes(document[at:end])))
            return end

        return reader

    readers: dict[bytes, _Reader] = {name: short(name) for name in _SHORT_SPAN_MEMBERS}
    readers[b"attributes"] = lambda at: scan.items(at, attribute)
    readers[b"events"] = lambda at: scan.items(at, event)
    scan.members(place, readers)
    members += (b'"attributes":[%b]' % b",".join(attributes), b'"events":[%b]' % b",".join(events))
    return b"{%b}" % b",".join(members)


class _Scan:
    """Goes through JSON without decoding it; each method gets the place of a value, and gives the place after it.

    Raises Unreadable, TooManyParts and TimeoutError. What it passes over need not be right in all details.
    """

    def __init__(self, document: _Document, parts: Parts) -> None:
        self._document = document
        self._parts = parts

    def members(self, place: int, readers: dict[bytes, _Reader]) -> int:
        """The members of an object, those with a reader by it. Another value is passed over: null is the same as none."""
        self._parts.look()
        document = self._document
        if document[place : place + 1] != b"{":
            return self.value(place)
        place = self.after_space(place + 1)
        if document[place : place + 1] == b"}":
            return place + 1
        while True:
            end = self._text(place)
            name = bytes(document[place + 1 : min(end - 1, place + 1 + MOST_VALUE_BYTES)])
            place = self.after_space(end)
            if document[place : place + 1] != b":":
                raise self.unreadable(place)
            place = self.after_space(place + 1)
            reader = readers.get(name)
            place = self.after_space(self.value(place) if reader is None else reader(place))
            sign = document[place : place + 1]
            if sign == b"}":
                return place + 1
            if sign != b",":
                raise self.unreadable(place)
            place = self.after_space(place + 1)

    def items(self, place: int, reader: _Reader) -> int:
        """The items of an array, each by the reader. Another value is passed over."""
        self._parts.look()
        document = self._document
        if document[place : place + 1] != b"[":
            return self.value(place)
        place = self.after_space(place + 1)
        if document[place : place + 1] == b"]":
            return place + 1
        while True:
            place = self.after_space(reader(place))
            sign = document[place : place + 1]
            if sign == b"]":
                return place + 1
            if sign != b",":
                raise self.unreadable(place)
            place = self.after_space(place + 1)

    def key(self, place: int) -> tuple[str, int]:
        """The key of an attribute, empty if it has none; and the place after the attribute."""
        found = ""

        def key(at: int) -> int:
            nonlocal found
            end = self.value(at)
            if end - at <= MOST_VALUE_BYTES and self._document[at : at + 1] == b'"':
                try:
                    found = _decode_text(bytes(self._document[at:end]))
                except UNREADABLE_JSON:
                    found = ""
            return end

        end = self.members(place, {b"key": key})
        return found, end

    def event(self, place: int) -> tuple[int, bytes]:
        """The place after the event of a span; and the event, if it is one of an exception, with nothing but its type."""
        name = b""
        types: list[bytes] = []

        def event_name(at: int) -> int:
            nonlocal name
            end = self.value(at)
            name = bytes(self._document[at : min(end, at + MOST_VALUE_BYTES)])
            return end

        def attribute(at: int) -> int:
            key, end = self.key(at)
            if key == EXCEPTION_TYPE and end - at <= MOST_VALUE_BYTES:
                types.append(bytes(self._document[at:end]))
            return end

        end = self.members(place, {b"name": event_name, b"attributes": lambda at: self.items(at, attribute)})
        if name != b'"%b"' % EXCEPTION_EVENT.encode() or not types:
            return end, b""
        return end, b'{"name":%b,"attributes":[%b]}' % (name, types[0])

    def value(self, place: int) -> int:
        self._parts.look()
        document = self._document
        sign = document[place : place + 1]
        if sign == b'"':
            return self._text(place)
        if sign in (b"{", b"["):
            found = _WHOLE.match(document, place, place + _STEP_BYTES)
            return found.end() if found else self._large(place)
        short = _SHORT.match(document, place)
        if short is None:
            raise self.unreadable(place)
        return short.end()

    def after_space(self, place: int) -> int:
        if self._document[place : place + 1] not in _SPACES:
            return place
        while True:
            step = min(place + _STEP_BYTES, len(self._document))
            place = _SPACE.match(self._document, place, step).end()  # type: ignore[union-attr]  # it matches nothing, too
            if place < step or step == len(self._document):
                return place

    def unreadable(self, place: int) -> Unreadable:
        return Unreadable(f"body: expected JSON, came something else at byte {place}")

    def _large(self, place: int) -> int:
        """The same as `value` for an object or an array that is large or deep."""
        begin, depth = place, 0
        document = self._document
        while True:
            self._parts.look()
            sign = document[place : place + 1]
            if sign == b'"':
                place = self._text(place)
            elif sign in (b"{", b"["):
                # Not at the beginning: there it is known that it is too large or too deep.
                whole = _WHOLE.match(document, place, place + _STEP_BYTES) if depth else None
                depth += whole is None
                place = whole.end() if whole else place + 1
            elif sign in (b"}", b"]"):
                depth -= 1
                place += 1
                if not depth:
                    return place
            elif not sign:
                raise Unreadable(f"body: expected JSON, came a value without an end at byte {begin}")
            place = _PLAIN.match(document, place, place + _STEP_BYTES).end()  # type: ignore[union-attr]  # see above

    def _text(self, place: int) -> int:
        document = self._document
        if found := _WHOLE_TEXT.match(document, place, place + _STEP_BYTES):
            return found.end()
        if document[place : place + 1] != b'"':
            raise self.unreadable(place)
        begin = place
        place += 1
        while True:
            self._parts.look()
            end = _INSIDE_TEXT.match(document, place, place + _STEP_BYTES).end()  # type: ignore[union-attr]  # see above
            if document[end : end + 1] == b'"':
                return end + 1
            if end == place:
                raise Unreadable(f"body: expected JSON, came a text without an end at byte {begin}")
            place = end
