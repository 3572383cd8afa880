"""Splits a JSON document into items without decoding them, so that a faulty item does not spoil the others. Pure; no I/O.

Whoever decodes holds the interpreter, and every other thread waits. So a large document is split window by window.
"""

import re
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import islice
from typing import Any, overload

import msgspec

from usage_pipeline import values
from usage_pipeline.events.ingest.flat_objects import flat_object
from usage_pipeline.events.ingest.json_scan import UnreadableDocument
from usage_pipeline.values import UNREADABLE_JSON, Malformed

Json = bytes | memoryview | msgspec.Raw
Items = Sequence[Json]

# What is split at a time, unless an item is longer.
WINDOW_BYTES = 2**20
# A document that is split at once: 5 ms, during which nobody else has the interpreter. Window by window takes twice the time.
WHOLE_BYTES = 2**23
# An item that is longer is looked through, and not decoded to find its end, if it is an object of texts. Of the service's input
# all that is larger than an event may be must be such.
LONG_ITEM_BYTES = 2**24
MOST_DECODED_BYTES = 2**25
# Nearly always there are no more spaces.
_FEW_BYTES = 64
# Places in a window that look like the end of an item and may be none.
_TRIES = 3
_SPACES = b" \t\n\r"
_SPACE = re.compile(rb"[ \t\n\r]*")
_GAP = re.compile(rb"[ \t\n\r,]*")
_OPENING_BRACE = re.compile(rb"[ \t\n\r]*\{")
# What some clients write and msgspec does not even skip: half a surrogate pair, where a text was cut, and Python's odd numbers.
# Something else of the same length in its place changes no end of an item.
_ODD = (
    (rb"\ud", rb"\u0"),
    (rb"\uD", rb"\u0"),
    (b"-Infinity", b"-1.000000"),
    (b"Infinity", b"1.000000"),
    (b"NaN", b"0.0"),
)


class TooManyItems(Malformed):
    """A document has more items than are allowed."""


class TooLargeItem(Malformed):
    """A document has an item that is too large to look for its end."""


class _Slices(Sequence[memoryview]):
    """Items that are parts of a document, which they keep alive."""

    def __init__(self, document: bytes | bytearray, ends: "array[int]") -> None:
        self._document = memoryview(document)
        self._ends = ends

    def __len__(self) -> int:
        return len(self._ends) // 2

    @overload
    def __getitem__(self, index: int) -> memoryview: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[memoryview]: ...
    def __getitem__(self, index: int | slice) -> memoryview | Sequence[memoryview]:
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self._document[self._ends[2 * index] : self._ends[2 * index + 1]]


class Timely(Sequence[bytes | memoryview | msgspec.Raw]):
    """Items that nobody gets after a deadline, a time of `time.monotonic`. Then TimeoutError comes instead."""

    def __init__(self, items: Items, deadline: float) -> None:
        self._items = items
        self._deadline = deadline

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, index: int) -> bytes | memoryview | msgspec.Raw: ...
    @overload
    def __getitem__(self, index: slice) -> "Timely": ...
    def __getitem__(self, index: int | slice) -> "bytes | memoryview | msgspec.Raw | Timely":
        if isinstance(index, slice):
            return Timely(self._items[index], self._deadline)
        if time.monotonic() > self._deadline:
            raise TimeoutError
        return self._items[index]


def items_of(
    document: bytes | bytearray, member: str | None, *, most: int | None = None, most_bytes: int | None = None
) -> Items:
    """The items of a JSON array, of `{"<member>": [...]}`, or the one item that has an `event_id` itself.

    Without a member only an array has items. It does not look further than the first `most` items. An item of more than
    `most_bytes` may end it with TooLargeItem.
    Raises TooManyItems, UnreadableDocument, or Malformed when the document is other JSON.
    """
    error: Exception | None = None
    is_object = member is not None and _OPENING_BRACE.match(document) is not None
    if member and is_object and (most_bytes is None or len(document) <= most_bytes) and _is_item(document, member):
        return _Slices(document, array("Q", (0, len(document))))
    if len(document) <= (WINDOW_BYTES if most is None else WHOLE_BYTES):
        try:
            return _items(_decoder(member if is_object else None, most)(document))
        except UNREADABLE_JSON as fault:
            if "of at most length" in str(fault):
                raise _too_many(most) from None
            error = fault
    ends = array("Q")
    for span in islice(_spans(document, member, most, most_bytes, error), None if most is None else most + 1):
        ends.extend(span)
    if most is not None and len(ends) > 2 * most:
        raise _too_many(most)
    return _Slices(document, ends)


def objects_of(document: bytes | bytearray, *, most: int | None = None, most_bytes: int | None = None) -> Items:
    """The items of a JSON array, or the one object that the document is. It raises what `items_of` raises."""
    if not begins_object(document):
        return items_of(document, None, most=most, most_bytes=most_bytes)
    if most_bytes is not None and len(document) > most_bytes:
        raise TooLargeItem(f"body: expected an object of at most {most_bytes} bytes, came {len(document)}")
    try:
        _split(_as_array(document, 0, len(document)), 1)
    except UNREADABLE_JSON as fault:
        raise UnreadableDocument(
            f"{_expected(None)}, came one that cannot be read: {values.described(fault)}"
        ) from None
    return _Slices(document, array("Q", (0, len(document))))


def begins_object(document: bytes | bytearray) -> bool:
    """Whether a document begins as a JSON object does."""
    place = _skipped(document, 0)
    return document[place : place + 1] == b"{"


def seems_lines(document: bytes | bytearray) -> bool:
    """Whether a document begins with a line that is an object, and another one. Such a document is no JSON as a whole."""
    first = _skipped(document, 0)
    end = document.find(b"\n", first)
    if document[first : first + 1] != b"{" or end < 0:
        return False
    last, following = _stripped(document, end), _skipped(document, end)
    return document[last - 1 : last] == b"}" and document[following : following + 1] == b"{"


def lines_of(document: bytes | bytearray, *, most: int | None = None, most_bytes: int | None = None) -> Items:
    """The items of JSON lines; empty lines are none. It does not look further than the first `most` items.

    Whether a line is JSON is not looked at: a faulty one is refused like any other item.
    Raises TooManyItems, and TooLargeItem for a line of more than `most_bytes`.
    """
    ends = array("Q")
    place = _skipped(document, 0)
    while place < len(document):
        if most is not None and len(ends) >= 2 * most:
            raise _too_many(most)
        end = document.find(b"\n", place)
        end = len(document) if end < 0 else end
        if most_bytes is not None and end - place > most_bytes:
            raise TooLargeItem(f"body: expected lines of at most {most_bytes} bytes, came one of {end - place}")
        ends.extend((place, end))
        place = _skipped(document, end)
    return _Slices(document, ends)


def items_in(document: bytes | bytearray, member: str) -> Iterator[bytes]:
    """The same, one by one, of a document with any number of items. It reads it to its end before it gives the first one."""
    if _OPENING_BRACE.match(document) is not None and _is_item(document, member):
        yield bytes(document)
        return
    for _ in _spans(document, member, None, None, None):
        pass
    for start, end in _spans(document, member, None, None, None):
        yield bytes(document[start:end])


@cache
def _decoder(member: str | None, most: int | None) -> Callable[[bytes | bytearray], Any]:
    """Decodes an array, or an object with that member, into a list or into a struct of optional items.

    With such a struct, decoding stops at the first item that is too many. With a list, it would go on to the end: 200 MB of
    `1,1,1` take several GB of memory, and are only 200 KB in a compressed request.
    """
    array_: Any = list[msgspec.Raw]
    if most is not None:
        fields = [(f"item_{number}", msgspec.Raw, msgspec.UNSET) for number in range(most)]
        array_ = msgspec.defstruct("Items", fields, array_like=True, forbid_unknown_fields=True, gc=False)
    document = msgspec.defstruct("Document", [(member, array_)], forbid_unknown_fields=True) if member else array_
    return msgspec.json.Decoder(document).decode


@cache
def _outline(member: str) -> Callable[[bytes | bytearray], Any]:
    """Decodes which of the members are there that tell an item from a document with items."""
    names = ("event_id", member)
    outline = msgspec.defstruct("Outline", [(name, msgspec.Raw, msgspec.UNSET) for name in names], gc=False)
    return msgspec.json.Decoder(outline).decode


def _is_item(document: bytes | bytearray, member: str) -> bool:
    if re.match(rb'[ \t\n\r]*\{[ \t\n\r]*"%b"' % member.encode(), document):
        # Without a look at all of it, which may be large.
        return False
    try:
        found = _outline(member)(document)
    except UNREADABLE_JSON:
        return False
    return found.event_id is not msgspec.UNSET and getattr(found, member) is msgspec.UNSET


def _items(decoded: Any) -> Sequence[msgspec.Raw]:
    if isinstance(decoded, list):
        return decoded
    items = msgspec.structs.astuple(decoded)
    if "Document" in type(decoded).__name__:
        return _items(items[0])
    # Places for which there was no item are UNSET, and all at the end.
    return items[: items.index(msgspec.UNSET)] if items and items[-1] is msgspec.UNSET else items


def _too_many(most: int | None) -> TooManyItems:
    return TooManyItems(f"body: expected at most {most} items, came more")


def _expected(member: str | None) -> str:
    other = "an object" if member is None else f'an object {{"{member}": […]}}'
    return f"body: expected a JSON array, or {other}"


def _spans(
    document: bytes | bytearray, member: str | None, most: int | None, most_bytes: int | None, error: Exception | None
) -> Iterator[tuple[int, int]]:
    """Where each item begins and ends. `error` is what another reader said of the document, for the reason.

    In a valid array, what is before a place is valid, too, if that place is the end of an item. Else it is not: a text or an
    array would be open. So a window that ends where an item seems to end is decoded, and tells whether it does.
    """
    try:
        place, last = _array_in(document, member)
        while place < last:
            size, end = WINDOW_BYTES, place
            while end == place:
                for cut in _cuts(document, place, min(place + size, last), last):
                    try:
                        raws = _items(_split(_as_array(document, place, cut), most))
                    except UNREADABLE_JSON as fault:
                        if "of at most length" in str(fault):
                            raise _too_many(most) from None
                        if cut == last:
                            raise
                        continue
                    at = place
                    for raw in raws:
                        at = _GAP.match(document, at).end()  # type: ignore[union-attr]  # it matches nothing, too
                        yield at, (at := at + memoryview(raw).nbytes)
                    end = cut
                    break
                if end == place:
                    if most_bytes is not None and size >= most_bytes:
                        raise TooLargeItem(
                            f"body: expected items of at most {most_bytes} bytes, came one of {size} or more"
                        )
                    size *= 2
                    if size >= LONG_ITEM_BYTES:
                        if (found := flat_object(document, place)) and found.end <= last:
                            end = found.end
                            yield place, end
                        elif most_bytes is not None and size > MOST_DECODED_BYTES:
                            raise TooLargeItem(
                                f"body: expected items above {MOST_DECODED_BYTES} bytes to be objects of texts, came another"
                            )
            place = end if end >= last else _after(document, end, b",")
            if end < last <= place:
                raise msgspec.DecodeError("Trailing comma in array")
    except UNREADABLE_JSON as fault:
        error = error or fault
        kind = Malformed if isinstance(error, msgspec.ValidationError) else UnreadableDocument
        raise kind(f"{_expected(member)}, came one that cannot be read: {values.described(error)}") from None


def _array_in(document: bytes | bytearray, member: str | None) -> tuple[int, int]:
    """Where the content of the array begins and ends, without the space around it. Raises DecodeError."""
    place, last = _skipped(document, 0), _stripped(document, len(document))
    if member is not None and document[place : place + 1] == b"{":
        if document[last - 1 : last] != b"}":
            raise msgspec.DecodeError("Input data was truncated")
        last = _stripped(document, last - 1)
        name = b'"%b"' % member.encode()
        place = _after(document, _after(document, place + 1, name), b":")
    if document[place : place + 1] != b"[":
        kind = msgspec.ValidationError if document[place : place + 1] else msgspec.DecodeError
        raise kind("Expected `array`")
    if last <= place + 1 or document[last - 1 : last] != b"]":
        raise msgspec.DecodeError("Input data was truncated")
    return _skipped(document, place + 1), max(_skipped(document, place + 1), _stripped(document, last - 1))


def _after(document: bytes | bytearray, place: int, sign: bytes) -> int:
    """The next place after a sign and the space around it. Raises DecodeError for another sign."""
    place = _skipped(document, place)
    if document[place : place + len(sign)] != sign:
        raise msgspec.ValidationError(f"expected {sign.decode()}")
    return _skipped(document, place + len(sign))


def _skipped(document: bytes | bytearray, place: int) -> int:
    """The first place that is no space, looked for step by step: there may be 200 MB of it."""
    while True:
        step = min(place + WINDOW_BYTES, len(document))
        place = _SPACE.match(document, place, step).end()  # type: ignore[union-attr]  # it matches nothing, too
        if place < step or step == len(document):
            return place


def _stripped(document: bytes | bytearray, end: int) -> int:
    """The place after the last sign before `end` that is no space."""
    step = _FEW_BYTES
    while end:
        begin = max(0, end - step)
        left = len(document[begin:end].rstrip(_SPACES))
        if left:
            return begin + left
        end, step = begin, WINDOW_BYTES
    return 0


def _cuts(document: bytes | bytearray, place: int, stop: int, last: int) -> Iterator[int]:
    """Places up to `stop` where an item may end, the latest first: the end itself, or before a comma between two objects."""
    if stop == last:
        yield last
        return
    window = document[place:stop]
    end, comma = len(window), -1
    for _ in range(_TRIES):
        while (end := window.rfind(b"{", 0, end)) > 0:
            before = window[max(0, end - 64) : end].rstrip(_SPACES)
            after = before.removesuffix(b",").rstrip(_SPACES)
            if before.endswith(b",") and after.endswith(b"}"):
                comma = end - len(window[max(0, end - 64) : end]) + len(after)
                yield place + comma
                break
        if end <= 0:
            break
    if comma < 0 and (comma := window.rfind(b",")) > 0:
        # Perhaps these are no objects.
        yield place + comma


def _as_array(document: bytes | bytearray, begin: int, end: int) -> bytes:
    """An array of what is there, with one copy of it."""
    with memoryview(document) as view, view[begin:end] as part:
        return b"".join((b"[", part, b"]"))


def _split(text: bytes, most: int | None) -> Any:
    """The items of an array of bytes, also with what msgspec does not skip. Raises one of UNREADABLE_JSON."""
    decode = _decoder(None, most)
    try:
        return decode(text)
    except msgspec.DecodeError:
        if not any(odd in text for odd, _ in _ODD):
            raise
    # Under one name: it may be an item of many megabytes.
    for odd, instead in _ODD:
        text = text.replace(odd, instead)
    return decode(text)
