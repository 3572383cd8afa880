"""A long JSON string becomes COPY text piece by piece, without ever being a Python string as a whole. Pure; no I/O.

One wide character among a hundred million others would make each of them four bytes.
"""

import re
from collections.abc import Iterator

import msgspec

from usage_pipeline.storage.copy_text import NULL, escaped
from usage_pipeline.values import Malformed

PIECE_BYTES = 2**18
_decode_text = msgspec.json.Decoder(str).decode
# What the end of a piece may cut: an escape, half a pair of them, a character of several bytes.
_CUT_ESCAPE = re.compile(rb"\\u?[0-9a-fA-F]{0,3}\Z")
_FIRST_HALF = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}\Z")
_CUT_CHARACTER = re.compile(rb"(?:[\xc0-\xff]|[\xe0-\xff][\x80-\xbf]|[\xf0-\xff][\x80-\xbf]{2})\Z")


def append_copied(line: bytearray, name: str, written: bytes | memoryview, most: int) -> bool:
    """Appends the COPY text of a JSON string of at most `most` characters; that of null, and False, for null and an empty one.

    Raises Malformed, or msgspec.DecodeError when it is no text.
    """
    before = len(line)
    view = memoryview(written)
    if bytes(view[:4]) == b"null":
        line += NULL
        return False
    if bytes(view[:1]) != b'"':
        raise msgspec.ValidationError(f"Expected `str | null` - at `$.{name}`")
    characters = 0
    for text in texts_of(view[1:-1]):
        if "\0" in text:
            place = characters + text.index("\0")
            raise Malformed(f"{name}: expected no NUL character, came one at position {place}")
        characters += len(text)
        if characters <= most:
            line += escaped(text)
    if characters > most:
        raise Malformed(f"{name}: expected at most {most} characters, came {characters}")
    if len(line) == before:
        line += NULL
        return False
    return True


def texts_of(content: memoryview) -> Iterator[str]:
    """What is between the quotes of a JSON string, decoded in pieces. Raises msgspec.DecodeError or UnicodeDecodeError."""
    place = 0
    while place < len(content):
        piece = bytes(content[place : place + PIECE_BYTES])
        if place + len(piece) < len(content):
            piece = _whole(piece) or piece
        yield _decode_text(b'"%b"' % piece)
        place += len(piece)


def _whole(piece: bytes) -> bytes:
    """The piece without what its end cuts off."""
    cut = _CUT_ESCAPE.search(piece, max(0, len(piece) - 5))
    if cut and _begins_escape(piece, cut.start()):
        piece = piece[: cut.start()]
    half = _FIRST_HALF.search(piece, max(0, len(piece) - 6))
    if half and _begins_escape(piece, half.start()):
        piece = piece[: half.start()]
    character = _CUT_CHARACTER.search(piece, max(0, len(piece) - 3))
    return piece[: character.start()] if character else piece


def _begins_escape(piece: bytes, place: int) -> bool:
    """Whether the backslash at a place is none that another one before it escapes."""
    before = piece[:place]
    return (len(before) - len(before.rstrip(b"\\"))) % 2 == 0
