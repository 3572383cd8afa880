"""Reads the few members of a large item that count, and passes over the rest without decoding it. Pure; no I/O."""

import re
from collections.abc import Callable
from hashlib import blake2b
from typing import Any, TypeVar

import msgspec

from usage_pipeline import values
from usage_pipeline.events.ingest.documents import Json
from usage_pipeline.events.ingest.model import MAX_EVENT_BYTES
from usage_pipeline.values import MAX_ID_CHARACTERS, UNREADABLE_JSON, Malformed

UNKNOWN = "unknown"
# Of a single member that is decoded. The longest that clients have are lists of tags.
MAX_MEMBER_BYTES = 2**16
NONE = msgspec.Raw(b"null")
Outline = TypeVar("Outline", bound=msgspec.Struct)
# Of a text that is too long: what says which one it was.
_HASH_BYTES = 8
# What is mended at a time: some milliseconds.
_PIECE_BYTES = 2**17
# What Python writes and JSON does not have. In place of a number comes one that no count or cost can be.
_NO_NUMBER = re.compile(rb"-?\bInfinity\b|\bNaN\b")
_HALF_PAIR = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F][0-9a-fA-F]{2}"
)


def outline_reader(outline: type[Outline], what: str) -> Callable[[Json], Outline]:
    """A function that reads an item: those members of a JSON object that the outline has. It raises Malformed.

    `what` names the item in a reason.
    """
    decode = msgspec.json.Decoder(outline).decode

    def read(item: Json) -> Outline:
        size = memoryview(item).nbytes
        if size > MAX_EVENT_BYTES:
            raise Malformed(f"expected {what} of at most {MAX_EVENT_BYTES} bytes, came {size}")
        try:
            return decode(item)
        except UNREADABLE_JSON:
            pass
        try:
            return decode(_mended(bytes(item)))
        except UNREADABLE_JSON as error:
            raise Malformed(
                f"expected {what} as a JSON object, came one with a fault: {values.described(error)}"
            ) from None

    return read


def value_of(name: str, raw: msgspec.Raw) -> Any:
    """What a member holds. Raises Malformed where it is longer than any that is of use."""
    if raw is NONE:
        return None
    try:
        return msgspec.json.decode(small_enough(name, raw))
    except UNREADABLE_JSON as error:
        raise Malformed(f"{name}: expected JSON, came {values.described(error)}") from None


def small_enough(name: str, raw: msgspec.Raw) -> msgspec.Raw:
    """The member itself. Raises Malformed where it is longer than any that is of use."""
    if (size := memoryview(raw).nbytes) > MAX_MEMBER_BYTES:
        raise Malformed(f"{name}: expected at most {MAX_MEMBER_BYTES} bytes, came {size}")
    return raw


def part_reader(outline: type[Outline]) -> Callable[[msgspec.Raw], Outline]:
    """A function that reads the members of an object in an item; from anything else it has none of them."""
    decode = msgspec.json.Decoder(outline).decode

    def read(raw: msgspec.Raw) -> Outline:
        try:
            return decode(raw)
        except UNREADABLE_JSON:
            return outline()

    return read


def text_of(value: object) -> str:
    """A text as it may be stored, also of a number; of anything else an empty one."""
    if isinstance(value, str):
        text = value.strip()
        return text if len(text) <= MAX_ID_CHARACTERS and "\0" not in text else fitted(text)
    return "" if isinstance(value, bool) or not isinstance(value, int | float) else fitted(str(value))


def fitted(text: str, most: int = MAX_ID_CHARACTERS) -> str:
    """A text of at most 200 characters without NUL. Of a longer one the beginning and a hash: so two of them stay two.

    The sender cannot shorten what others made, and a request that is not counted is the greater loss.
    """
    if "\0" in text:
        text = text.replace("\0", "\N{REPLACEMENT CHARACTER}")
    if len(text) <= most:
        return text
    told = blake2b(text.encode(), digest_size=_HASH_BYTES).hexdigest()
    return f"{text[: most - len(told) - 1]}…{told}"


def object_of(value: object) -> dict[str, Any]:
    """An object, or an empty one in place of anything else."""
    return value if isinstance(value, dict) else {}


def _mended(item: bytes) -> bytes:
    """The same without half surrogate pairs and NaN, piece by piece: other threads have their turn in between."""
    pieces, place = [], 0
    while place < len(item):
        end = min(place + _PIECE_BYTES, len(item))
        if end < len(item):
            # No pair and no number is on both sides of a quote or a comma. A text of escapes alone is cut before one of them.
            end = (
                item.rfind(b'"', place, end) + 1
                or item.rfind(b",", place, end) + 1
                or max(item.rfind(b"\\u", place + 1, end), 0)
                or end
            )
        piece = _HALF_PAIR.sub(rb"\\ufffd", item[place:end])
        pieces.append(_NO_NUMBER.sub(b"-1", piece))
        place = end
    return b"".join(pieces)
