"""Looks through JSON step by step without decoding it: where values begin and end. Pure; no I/O.

A decoder would take a document as a whole, and every other thread waits meanwhile: a fifth of a second for 190 MB.
"""

import re
from collections.abc import Callable, Mapping

from usage_pipeline.values import Malformed

Document = bytes | bytearray | memoryview
# Reads a value at a place, and gives the place after it; of a member with its name.
Reader = Callable[[int], int]
MemberReader = Callable[[bytes, int], int]
# A step takes a millisecond.
STEP_BYTES = 2**17
# Of the name of a member. Anything longer is no name that anybody reads.
MOST_NAME_BYTES = 4 * 1024
_DEPTH_AT_ONCE = 12
_SPACE = re.compile(rb"[ \t\n\r]*+")
# Nothing is one of them, too: at the end of the document.
_SPACES = b" \t\n\r"
_TEXT = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_WHOLE_TEXT = re.compile(_TEXT, re.DOTALL)
_INSIDE_TEXT = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
_PLAIN = re.compile(rb'[^"\[\]{}]*+')
_SHORT = re.compile(rb'[^\[\]{},":\s]{1,64}')


class UnreadableDocument(Malformed):
    """A document is not what its type says."""


def _nested() -> bytes:
    inside = rb'[^"\[\]{}]*+'
    for _ in range(_DEPTH_AT_ONCE):
        inside = rb'(?:[^"\[\]{}]++|' + _TEXT + rb"|[\[{]" + inside + rb"[\]}])*+"
    return rb"[\[{]" + inside + rb"[\]}]"


# An object or an array that is not large and not deep, in one step.
_WHOLE = re.compile(_nested(), re.DOTALL)


def _nobody() -> None:
    """Where nobody counts the steps."""


class Scan:
    """Each method gets the place of a value, and gives the place after it.

    Raises UnreadableDocument, and what `look` raises. What it passes over need not be right in all details.
    """

    def __init__(self, document: Document, look: Callable[[], object] = _nobody) -> None:
        self._document = document
        self._look = look

    def members(self, place: int, readers: Mapping[bytes, Reader]) -> int:
        """The members of an object, those with a reader by it. Another value is passed over: null is the same as none."""
        return self.each_member(place, lambda name, at: readers.get(name, self.value)(at))

    def each_member(self, place: int, reader: MemberReader) -> int:
        """The same with one reader for all, which gets the name as it is written, of a very long one the beginning."""

        def member(at: int) -> int:
            end = self._text(at)
            name = bytes(self._document[at + 1 : min(end - 1, at + 1 + MOST_NAME_BYTES)])
            colon = self.after_space(end)
            if self._document[colon : colon + 1] != b":":
                raise self.unreadable(colon)
            return reader(name, self.after_space(colon + 1))

        return self._each(place, b"{", b"}", member)

    def items(self, place: int, reader: Reader) -> int:
        """The items of an array, each by the reader. Another value is passed over."""
        return self._each(place, b"[", b"]", reader)

    def value(self, place: int) -> int:
        """Any value, passed over."""
        self._look()
        document = self._document
        sign = document[place : place + 1]
        if sign == b'"':
            return self._text(place)
        if sign in (b"{", b"["):
            found = _WHOLE.match(document, place, place + STEP_BYTES)
            return found.end() if found else self._large(place)
        short = _SHORT.match(document, place)
        if short is None:
            raise self.unreadable(place)
        return short.end()

    def after_space(self, place: int) -> int:
        if self._document[place : place + 1] not in _SPACES:
            return place
        while True:
            step = min(place + STEP_BYTES, len(self._document))
            place = _SPACE.match(self._document, place, step).end()  # type: ignore[union-attr]  # it matches nothing, too
            if place < step or step == len(self._document):
                return place

    def _each(self, place: int, opening: bytes, closing: bytes, reader: Reader) -> int:
        """What is between two signs, with commas between: each by the reader."""
        self._look()
        document = self._document
        if document[place : place + 1] != opening:
            return self.value(place)
        place = self.after_space(place + 1)
        if document[place : place + 1] == closing:
            return place + 1
        while True:
            place = self.after_space(reader(place))
            sign = document[place : place + 1]
            if sign == closing:
                return place + 1
            if sign != b",":
                raise self.unreadable(place)
            place = self.after_space(place + 1)

    def unreadable(self, place: int) -> UnreadableDocument:
        return UnreadableDocument(f"body: expected JSON, came something else at byte {place}")

    def _large(self, place: int) -> int:
        """The same as `value` for an object or an array that is large or deep."""
        begin, depth = place, 0
        document = self._document
        while True:
            self._look()
            sign = document[place : place + 1]
            if sign == b'"':
                place = self._text(place)
            elif sign in (b"{", b"["):
                # Not at the beginning: there it is known that it is too large or too deep.
                whole = _WHOLE.match(document, place, place + STEP_BYTES) if depth else None
                depth += whole is None
                place = whole.end() if whole else place + 1
            elif sign in (b"}", b"]"):
                depth -= 1
                place += 1
                if not depth:
                    return place
            elif not sign:
                raise UnreadableDocument(f"body: expected JSON, came a value without an end at byte {begin}")
            place = _PLAIN.match(document, place, place + STEP_BYTES).end()  # type: ignore[union-attr]  # see above

    def _text(self, place: int) -> int:
        document = self._document
        if found := _WHOLE_TEXT.match(document, place, place + STEP_BYTES):
            return found.end()
        if document[place : place + 1] != b'"':
            raise self.unreadable(place)
        begin = place
        place += 1
        while True:
            self._look()
            end = _INSIDE_TEXT.match(document, place, place + STEP_BYTES).end()  # type: ignore[union-attr]  # see above
            if document[end : end + 1] == b'"':
                return end + 1
            if end == place:
                raise UnreadableDocument(f"body: expected JSON, came a text without an end at byte {begin}")
            place = end
