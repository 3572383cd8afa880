"""A very large JSON object of texts: where it ends, and where its members are, without decoding it. Pure; no I/O."""

from dataclasses import dataclass

import msgspec

from usage_pipeline.events.ingest.json_scan import Document, Scan, UnreadableDocument

_MOST_MEMBERS = 64
_decode_text = msgspec.json.Decoder(str).decode


@dataclass(frozen=True, slots=True)
class FlatObject:
    """The place after the object, and for each member where its value begins and ends. Of a name that comes twice, the last."""

    end: int
    members: dict[str, tuple[int, int]]


def flat_object(document: Document, place: int = 0) -> FlatObject | None:
    """The object at a place, if it has few members and its values are texts, numbers, true, false or null; else None.

    Nothing is said about what is inside of the texts.
    """
    if document[place : place + 1] != b"{":
        return None
    scan = Scan(document)
    members: dict[str, tuple[int, int]] = {}

    def member(name: bytes, at: int) -> int:
        if document[at : at + 1] in (b"{", b"[") or len(members) >= _MOST_MEMBERS:
            raise scan.unreadable(at)
        end = scan.value(at)
        members[_decode_text(b'"%b"' % name)] = (at, end)
        return end

    try:
        end = scan.each_member(place, member)
    except (UnreadableDocument, msgspec.DecodeError, UnicodeDecodeError):
        return None
    return FlatObject(end, members) if members else None
