"""Unpacks files as a stream, and stops at one that would become too large."""

import gzip
import io
import zlib
from typing import Any, BinaryIO

from usage_pipeline.events.files.names import Packing

# Usage events have a tenth of their size as gzip; the same line again and again a thousandth.
MOST_EXPANSION = 200
UNCHECKED_BYTES = 16 * 2**20
_READ_BYTES = 1 << 20
_ZSTD_BYTES = 1 << 14
_NAMES = {"gz": "gzip", "zst": "Zstandard"}


class BrokenFile(Exception):
    """A file that cannot be read to its end; the message says what was expected and what came."""


def unpacked(stream: BinaryIO, packing: Packing, unchecked_bytes: int = UNCHECKED_BYTES) -> io.BufferedReader:
    """What is in a packed file, as a stream. Closing it leaves the file open.

    It raises BrokenFile for a file with a fault, and for one that becomes longer than `unchecked_bytes` and than MOST_EXPANSION
    times what was read of it.
    """
    raw = _Unpacked(stream, packing, unchecked_bytes) if packing else _Unclosed(stream)
    return io.BufferedReader(raw, _READ_BYTES)


class _Unclosed(io.RawIOBase):
    """A stream that belongs to somebody else, who closes it. `failed`: what it raised, to be told from faults in the file."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.failed: Exception | None = None
        self.size = 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        try:
            part = self._stream.read(size)
        except Exception as error:
            self.failed = error
            raise
        self.size += len(part)
        return part

    def readinto(self, buffer: Any) -> int:
        part = self.read(len(buffer))
        buffer[: len(part)] = part
        return len(part)


class _Unpacked(io.RawIOBase):
    def __init__(self, stream: BinaryIO, packing: Packing, unchecked_bytes: int) -> None:
        self._name = _NAMES[packing]
        self._packed = _Unclosed(stream)
        # A fault loses what else was unpacked in the same step, so steps are small.
        plain: Any = gzip.GzipFile(fileobj=self._packed) if packing == "gz" else _zstd(self._packed)
        self._read = plain.read1 if packing == "gz" else plain.read
        self._most = _READ_BYTES if packing == "gz" else _ZSTD_BYTES
        self._unchecked_bytes = unchecked_bytes
        self._size = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            part = self._read(min(len(buffer), self._most))
        except (OSError, EOFError, zlib.error) as error:
            if self._packed.failed is not None:
                raise self._packed.failed from None
            raise BrokenFile(f"expected a whole {self._name} file, came one with a fault: {error}") from None
        self._size += len(part)
        if self._size > max(self._unchecked_bytes, MOST_EXPANSION * self._packed.size):
            raise BrokenFile(
                f"expected at most {MOST_EXPANSION} times as many bytes as the {self._name} file has, came more"
            )
        buffer[: len(part)] = part
        return len(part)


def _zstd(packed: _Unclosed) -> Any:
    # It is imported here: most files need none of it. Its windows are at most 128 MB, zstd's own default.
    import pyarrow as pa

    return pa.CompressedInputStream(packed, "zstd")
