"""Reads the items of a landed file as a stream: JSON lines one by one, a JSON document as a whole."""

import codecs
import gzip
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from usage_pipeline.events.ingest.documents import items_in
from usage_pipeline.values import Malformed

_READ_BYTES = 1 << 20
# Usage events have a tenth of their size as gzip; the same line again and again a thousandth.
MOST_EXPANSION = 200
_UNCHECKED_BYTES = 16 * 2**20
_Readable = BinaryIO | gzip.GzipFile


class BrokenFile(Exception):
    """A file that cannot be read to its end; the message says what was expected and what came."""


def items_of_file(stream: BinaryIO, name: str, member: str, limit_bytes: int) -> Iterator[tuple[int, bytes]]:
    """The JSON items of a file, each with its position: its line from 1 on, or in a JSON array its index from 0 on.

    The `name` of the file tells the format. A document, or a line, may have `limit_bytes` decompressed. A byte order mark of
    UTF-8 at the beginning, as editors of Windows write it, is none of an item. Lines of a gzip file may together be longer,
    up to MOST_EXPANSION times the file.

    Raises BrokenFile after the items before the fault, and OSError when the file system fails.
    """
    is_packed = name.endswith(".gz")
    plain: _Readable = gzip.GzipFile(fileobj=stream) if is_packed else stream
    try:
        if has_lines(name):
            yield from _lines(plain, limit_bytes, stream if is_packed else None)
        else:
            yield from enumerate(items_in(_whole(plain, limit_bytes), member))
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise BrokenFile(f"expected a whole gzip file, came one with a fault: {error}") from None
    except Malformed as malformed:
        raise BrokenFile(str(malformed)) from None


def has_lines(name: str) -> bool:
    """Whether a file of that name has JSON lines; else it is one JSON document."""
    return name.removesuffix(".gz").endswith((".jsonl", ".ndjson"))


def _lines(stream: _Readable, limit_bytes: int, packed: BinaryIO | None) -> Iterator[tuple[int, bytes]]:
    number = size = 0
    while line := stream.readline(limit_bytes + 1):
        number += 1
        size += len(line)
        if packed is not None and size > min(limit_bytes, _UNCHECKED_BYTES) and size > MOST_EXPANSION * packed.tell():
            raise BrokenFile(
                f"line {number}: expected at most {MOST_EXPANSION} times as many bytes as the gzip file has, came more"
            )
        if len(line) > limit_bytes:
            raise BrokenFile(f"line {number}: expected at most {limit_bytes} bytes (MAX_GZIP_SIZE x 20), came more")
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if item := line.strip():
            yield number, item


def _whole(stream: _Readable, limit_bytes: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    while part := stream.read(_READ_BYTES):
        size += len(part)
        if size > limit_bytes:
            raise BrokenFile(
                f"expected a JSON document of at most {limit_bytes} bytes (MAX_GZIP_SIZE x 20), came more."
                " A file of JSON lines may be longer"
            )
        parts.append(part)
    return b"".join(parts).removeprefix(codecs.BOM_UTF8)
