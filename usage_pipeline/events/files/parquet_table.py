"""The rows of a Parquet file as a stream, read by a process of its own (`parquet_reader.py`).

A few hundred bytes of Parquet may ask for any amount of memory, in more ways than its own footer tells. In a process with a
bound, such a file costs itself alone. That process decodes the next rows while we store these.
"""

import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterator, Mapping
from contextlib import ExitStack, suppress
from typing import Any, BinaryIO, cast

import msgspec

from usage_pipeline.events.files.packed import MOST_EXPANSION, UNCHECKED_BYTES, BrokenFile
from usage_pipeline.events.files.parquet_reader import COLUMNS, END, FAULT, ROW
from usage_pipeline.events.files.rows import Row, Table
from usage_pipeline.values import UNREADABLE_JSON, Malformed, described

# Of a Parquet file that is packed once more, or lies in a store: it is read from a temporary file, since its end comes first.
MOST_COPIED_BYTES = 4 * 2**30
_READ_BYTES = 1 << 20
_END_SECONDS = 10


def parquet_table(plain: BinaryIO, is_local: bool, limit_bytes: int) -> Table:
    """The columns of a file, and its rows by their numbers from 1 on. Raises BrokenFile, also while rows are read.

    `is_local`: it is a file that another process can read, too. A row may have `limit_bytes` as JSON.
    """
    lines = _lines(plain, is_local, limit_bytes)
    first = next(lines, b"")
    if first[:1] != COLUMNS:
        lines.close()
        raise BrokenFile("expected a Parquet file, came nothing of it")
    return Table(msgspec.json.decode(first[1:], type=list[str]), _rows(lines))


def _rows(lines: Iterator[bytes]) -> Iterator[Row]:
    decode = msgspec.json.Decoder(dict).decode
    for number, line in enumerate(lines, start=1):
        try:
            row: Mapping[str, Any] | Malformed = decode(line[1:])
        except UNREADABLE_JSON as error:
            row = Malformed(f"expected a row that JSON can hold, came {described(error)}")
        yield number, row


def _lines(plain: BinaryIO, is_local: bool, limit_bytes: int) -> Generator[bytes]:
    """What the process says, line by line, without its end. Raises BrokenFile."""
    with ExitStack() as stack:
        file = plain if is_local else _copied(plain, stack.enter_context(tempfile.TemporaryFile()))
        size = file.seek(0, 2)
        file.seek(0)
        command = [sys.executable, "-P", "-m", "usage_pipeline.events.files.parquet_reader"]
        pipe, null = subprocess.PIPE, subprocess.DEVNULL
        reader = subprocess.Popen(command, stdin=file, stdout=pipe, stderr=null)  # noqa: S603  # nothing of it is foreign
        answer = cast("BinaryIO", reader.stdout)
        told = 0
        try:
            while (line := answer.readline(limit_bytes + 1))[:1] in (COLUMNS, ROW):
                told += len(line)
                if len(line) > limit_bytes:
                    raise BrokenFile(f"expected rows of at most {limit_bytes} bytes (MAX_GZIP_SIZE x 20), came more")
                if told > max(UNCHECKED_BYTES, MOST_EXPANSION * size):
                    raise BrokenFile(
                        f"expected rows of at most {MOST_EXPANSION} times as many bytes as the Parquet file has, came more"
                    )
                yield line
            if line[:1] == FAULT:
                raise BrokenFile(f"expected a whole Parquet file, came one with a fault: {line[1:].decode().strip()}")
            if line[:1] != END:
                ended = reader.wait(_END_SECONDS)
                raise BrokenFile(f"expected a whole Parquet file, came one that its reader died of ({ended})")
        finally:
            reader.kill()
            answer.close()
            with suppress(subprocess.TimeoutExpired):
                reader.wait(_END_SECONDS)


def _copied(plain: BinaryIO, copy: BinaryIO) -> BinaryIO:
    size = 0
    while part := plain.read(_READ_BYTES):
        size += len(part)
        if size > MOST_COPIED_BYTES:
            raise BrokenFile(f"expected a Parquet file of at most {MOST_COPIED_BYTES} bytes, came more")
        copy.write(part)
    copy.flush()
    return copy
