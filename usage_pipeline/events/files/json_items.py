"""The items of JSON files as a stream: JSON lines one by one, a JSON document as a whole."""

import codecs
from collections.abc import Callable, Iterator, Mapping
from typing import BinaryIO

import msgspec

from usage_pipeline.events.files.formats import formats_by_members
from usage_pipeline.events.files.names import FileKind
from usage_pipeline.events.files.packed import UNCHECKED_BYTES, BrokenFile, unpacked
from usage_pipeline.events.files.pages import said_of_error, said_of_more
from usage_pipeline.events.ingest.documents import begins_object, items_in
from usage_pipeline.values import UNREADABLE_JSON, Malformed

_READ_BYTES = 1 << 20
# Pages of an API have their items in this member: OpenAI's usage, Langfuse's observations, LiteLLM's logs.
_PAGE = "data"
# Beside its items, a page has counts and places.
_MOST_BESIDE_BYTES = 2**16
Tell = Callable[[str], None]
_members_of = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def json_items(
    stream: BinaryIO, kind: FileKind, member: str, limit_bytes: int, tell: Tell = lambda _: None
) -> Iterator[tuple[int, bytes]]:
    """The items of a file of JSON, each with its position. A document, or a line, may have `limit_bytes` unpacked.

    `tell` hears what is to be said of the whole file.
    Lines of a packed file may together be longer: see `unpacked`. Raises BrokenFile after the items before the fault, and
    OSError when the file system fails.
    """
    if kind.content == "lines":
        unchecked = min(UNCHECKED_BYTES, limit_bytes)
        yield from json_lines(unpacked(stream, kind.packing, unchecked), limit_bytes)
    else:
        # It has a bound of its own.
        yield from json_document(unpacked(stream, kind.packing, 2 * limit_bytes), member, limit_bytes, tell)


def json_lines(plain: BinaryIO, limit_bytes: int) -> Iterator[tuple[int, bytes]]:
    """The lines that are not empty, each with its number from 1 on. A byte order mark at the beginning is none of a line.

    Raises BrokenFile for a line of more than `limit_bytes`.
    """
    number = 0
    while line := plain.readline(limit_bytes + 1):
        number += 1
        if len(line) > limit_bytes:
            raise BrokenFile(f"line {number}: expected at most {limit_bytes} bytes (MAX_GZIP_SIZE x 20), came more")
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if item := line.strip():
            yield number, item


def json_document(plain: BinaryIO, member: str, limit_bytes: int, tell: Tell) -> Iterator[tuple[int, bytes]]:
    """The items of an array, of `{"<member>": [...]}` or of a page `{"data": [...]}`, or a single one; each with its index.

    Raises BrokenFile for a document of more than `limit_bytes`, for an error that an API answered, and for other JSON.
    """
    document = _whole(plain, limit_bytes)
    members = _members_in(document, member)
    if (page := bytes(members.get(_PAGE, b""))).startswith(b"["):
        document = page
        if more := said_of_more(_small(members)):
            tell(more)
    elif formats_by_members(members):
        yield 0, document
        return
    elif member not in members and (error := said_of_error(_small(members))):
        raise BrokenFile(f"expected items, came an error that was answered in their place: {error}")
    try:
        yield from enumerate(items_in(document, member))
    except Malformed as malformed:
        raise BrokenFile(str(malformed)) from None


def _members_in(document: bytes, member: str) -> Mapping[str, msgspec.Raw]:
    """The members of a page or of a single item; none of a document of items, which may be large, nor of what is no object."""
    if not begins_object(document) or document[:64].split(b'"', 2)[1:2] == [member.encode()]:
        return {}
    try:
        return _members_of(document)
    except UNREADABLE_JSON:
        return {}


def _small(members: Mapping[str, msgspec.Raw]) -> Mapping[str, msgspec.Raw]:
    return {name: raw for name, raw in members.items() if memoryview(raw).nbytes <= _MOST_BESIDE_BYTES}


def _whole(plain: BinaryIO, limit_bytes: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    while part := plain.read(_READ_BYTES):
        size += len(part)
        if size > limit_bytes:
            raise BrokenFile(
                f"expected a JSON document of at most {limit_bytes} bytes (MAX_GZIP_SIZE x 20), came more."
                " A file of JSON lines may be longer"
            )
        parts.append(part)
    return b"".join(parts).removeprefix(codecs.BOM_UTF8)
