"""Splits a JSON document into items without decoding them, so that a faulty item does not spoil the others. Pure; no I/O."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import islice
from typing import Any

import msgspec

from usage_pipeline import values
from usage_pipeline.values import UNREADABLE_JSON, Malformed

Items = Sequence[bytes | msgspec.Raw]

# The slow way makes a Python object of each value in the text, and even a short text can hold very many values.
MAX_SCANNED_BYTES = 32 * 2**20
_scan_value = json.JSONDecoder().raw_decode
_SPACE = re.compile(r"[ \t\n\r]*")
_OPENING_BRACE = re.compile(rb"[ \t\n\r]*\{")


class TooManyItems(Malformed):
    """A document has more items than are allowed."""


class UnreadableDocument(Malformed):
    """A document is not JSON."""


def items_of(document: bytes | bytearray, member: str, *, most: int | None = None) -> Items:
    """The items of a JSON array, or of `{"<member>": [...]}`. It does not look further than the first `most` items.

    Raises TooManyItems, UnreadableDocument, or Malformed when the document is other JSON.
    """
    expected = f'body: expected a JSON array, or an object {{"{member}": […]}}'
    is_object = _OPENING_BRACE.match(document) is not None
    try:
        return _items(_decoder(member if is_object else None, most)(document))
    except UNREADABLE_JSON as error:
        if "of at most length" in str(error):
            raise _too_many(most) from None
        try:
            if len(document) > MAX_SCANNED_BYTES:
                raise ValueError
            items = list(islice(_scanned(document, member), None if most is None else most + 1))
        except (ValueError, RecursionError):
            kind = Malformed if isinstance(error, msgspec.ValidationError) else UnreadableDocument
            raise kind(f"{expected}, came one that cannot be read: {values.described(error)}") from None
        if most is not None and len(items) > most:
            raise _too_many(most) from None
        return items


@cache
def _decoder(member: str | None, most: int | None) -> Callable[[bytes | bytearray], Any]:
    """Decodes an array, or an object with that member, into a list or into a struct of optional items.

    With such a struct, decoding stops at the first item that is too many. With a list, it would go on to the end: 200 MB of
    `1,1,1` take several GB of memory, and are only 200 KB in a compressed request.
    """
    array: Any = list[msgspec.Raw]
    if most is not None:
        fields = [(f"item_{number}", msgspec.Raw, msgspec.UNSET) for number in range(most)]
        array = msgspec.defstruct("Items", fields, array_like=True, forbid_unknown_fields=True, gc=False)
    document = msgspec.defstruct("Document", [(member, array)], forbid_unknown_fields=True) if member else array
    return msgspec.json.Decoder(document).decode


def _items(decoded: Any) -> Items:
    if isinstance(decoded, list):
        return decoded
    items = msgspec.structs.astuple(decoded)
    if "Document" in type(decoded).__name__:
        return _items(items[0])
    # Places for which there was no item are UNSET, and all at the end.
    return items[: items.index(msgspec.UNSET)] if items and items[-1] is msgspec.UNSET else items


def _too_many(most: int | None) -> TooManyItems:
    return TooManyItems(f"body: expected at most {most} items, came more")


def _scanned(document: bytes | bytearray, member: str) -> Iterator[bytes]:
    """The same with the standard library. It is slower, but accepts strings that msgspec refuses: half a surrogate pair, which
    a client makes when it cuts a text. Raises ValueError.
    """
    text = document.decode(errors="surrogateescape")
    opening = re.compile(rf'\s*(?:\{{\s*"{member}"\s*:\s*)?\[').match(text)
    if opening is None:
        raise ValueError("no array")
    place, is_first = opening.end(), True
    while not (ending := re.compile(r"\s*\]").match(text, place)):
        if not is_first:
            place = _after(text, place, ",")
        start = _SPACE.match(text, place).end()  # type: ignore[union-attr]  # it matches nothing, too
        _, place = _scan_value(text, start)
        yield text[start:place].encode(errors="surrogateescape")
        is_first = False
    rest = text[ending.end() :].strip(" \t\n\r")
    if rest != ("}" if "{" in opening[0] else ""):
        raise ValueError("more than an array")


def _after(text: str, place: int, sign: str) -> int:
    start = _SPACE.match(text, place).end()  # type: ignore[union-attr]  # it matches nothing, too
    if not text.startswith(sign, start):
        raise ValueError(f"no {sign}")
    return start + len(sign)
