"""Splits what came into items, without decoding them: one fault must not cost its neighbours. Pure; no I/O."""

import json
import re
from collections.abc import Iterator, Sequence

import msgspec

from usage_pipeline import values
from usage_pipeline.values import UNREADABLE_JSON, Malformed

Items = Sequence[bytes | msgspec.Raw]

_decode_array = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_scan_value = json.JSONDecoder().raw_decode
_SPACE = re.compile(r"[ \t\n\r]*")


def items_of(document: bytes, member: str) -> Items:
    """The items of a JSON array, or of `{"<member>": [...]}`. Raises Malformed when the document is neither."""
    expected = f'body: expected a JSON array, or an object {{"{member}": […]}}'
    try:
        if document.lstrip()[:1] != b"{":
            return _decode_array(document)
        members = _decode_object(document)
        if set(members) != {member}:
            raise Malformed(f"{expected}, came an object with {values.shown(', '.join(members).encode())}")
        return _decode_array(members[member])
    except UNREADABLE_JSON as error:
        try:
            return list(_scanned(document, member))
        except (ValueError, RecursionError):
            raise Malformed(f"{expected}, came one that cannot be read: {values.described(error)}") from None


def _scanned(document: bytes, member: str) -> Iterator[bytes]:
    """The same by the standard library, which is slower and skips strings that msgspec stops at: half a surrogate pair, as a
    client leaves that cuts its texts. Raises ValueError.
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
