"""A process of its own that reads a Parquet file from standard input and writes its rows as JSON, a letter before each line.

It has a bound for its memory. Whatever goes wrong in it is one line about that file; `parquet_table.py` starts it.
"""

import os
import sys
from collections.abc import Iterator
from typing import Any, BinaryIO

COLUMNS, ROW, FAULT, END = b"C", b"R", b"F", b"E"
# Beyond what Python and its libraries have when they are loaded.
MOST_MEMORY_BYTES = 512 * 2**20
_MOST_SECONDS = 3_600
_MOST_COLUMNS = 1_000
# Of rows that are large by the word of the footer, fewer are decoded at a time.
_ROWS_PER_BATCH = 1_000
_BYTES_PER_BATCH = 16 * 2**20
_BUFFER_BYTES = 1 << 20
_INFINITE = (float("inf"), float("-inf"))
# Of what the footer says, which nobody else bounds.
_MOST_FOOTER_BYTES = 16 * 2**20
_MOST_FOOTER_ENTRIES = 1_000_000


def main() -> None:
    """Writes the columns, then the rows, then that this was all, or what was wrong."""
    write = sys.stdout.buffer.write
    try:
        for line in _lines(os.fdopen(0, "rb")):
            write(line)
        write(END + b"\n")
    except BrokenPipeError:
        # Nobody reads any more. Python would complain once more at its end.
        os._exit(0)
    except Exception as error:
        text = f"it needs more than {MOST_MEMORY_BYTES} bytes of memory" if _is_memory(error) else _first_line(error)
        write(FAULT + text.encode(errors="backslashreplace") + b"\n")
    sys.stdout.buffer.flush()


def _is_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or "bad_alloc" in str(error)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def _bound() -> None:
    import resource

    for limit, most in (
        (resource.RLIMIT_DATA, _data_bytes() + MOST_MEMORY_BYTES),
        (resource.RLIMIT_CPU, _MOST_SECONDS),
    ):
        _, hard = resource.getrlimit(limit)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(limit, (most, hard))


def _data_bytes() -> int:
    """What this process has of the memory that is bounded. Other systems than Linux do not tell, and bound little of it."""
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            [found] = [line for line in status if line.startswith("VmData:")]
    except (OSError, ValueError):
        return 0
    return int(found.split()[1]) * 1024


def _lines(file: BinaryIO) -> Iterator[bytes]:
    # Imported here, since the other side only needs the letters.
    import msgspec
    import pyarrow as pa
    import pyarrow.parquet as pq

    # After the imports: libraries reserve memory of their own that no file has a part in.
    _bound()
    pa.set_memory_pool(pa.system_memory_pool())
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 8))
    end = file.read(8)
    if end[4:] != b"PAR1":
        raise ValueError("expected PAR1 at its end, came something else")
    if int.from_bytes(end[:4], "little") > _MOST_FOOTER_BYTES:
        raise ValueError(f"expected a footer of at most {_MOST_FOOTER_BYTES} bytes, came more")
    file.seek(0)
    table = pq.ParquetFile(
        file,
        pre_buffer=False,
        buffer_size=_BUFFER_BYTES,
        thrift_string_size_limit=_MOST_FOOTER_BYTES,
        thrift_container_size_limit=_MOST_FOOTER_ENTRIES,
    )
    if table.metadata.num_columns > _MOST_COLUMNS:
        raise ValueError(f"expected at most {_MOST_COLUMNS} columns, came {table.metadata.num_columns}")
    names = table.schema_arrow.names
    if len(set(names)) < len(names):
        raise ValueError("expected columns of different names, came two of one name")
    encode = msgspec.json.Encoder(enc_hook=str).encode
    yield COLUMNS + encode(names) + b"\n"
    groups = [table.metadata.row_group(number) for number in range(table.metadata.num_row_groups)]
    row_bytes = max((group.total_byte_size // max(group.num_rows, 1) for group in groups), default=0)
    batch_rows = min(_ROWS_PER_BATCH, max(_BYTES_PER_BATCH // max(row_bytes, 1), 1))
    for batch in table.iter_batches(batch_size=batch_rows, use_threads=False):
        columns = [_values(pa, column) for column in batch.columns]
        # Neither null nor NaN, which is not itself.
        yield (
            b"".join(
                ROW
                + encode(
                    {
                        name: value
                        for name, value in zip(names, cells, strict=True)
                        if value is not None and value == value
                    }
                )
                + b"\n"
                for cells in zip(*columns, strict=True)
            )
            if columns
            else b""
        )


def _values(pa: Any, column: Any) -> list[Any]:
    kind = column.type
    if pa.types.is_timestamp(kind):
        # JSON has no nanoseconds, and Python no datetimes with them.
        column = column.cast(pa.timestamp("us", kind.tz), safe=False)
    values: list[Any] = column.to_pylist(maps_as_pydicts="lossy") if pa.types.is_nested(kind) else column.to_pylist()
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return [None if value is None else value.decode(errors="replace") for value in values]
    if pa.types.is_floating(kind):
        # JSON would have null, as if there was nothing.
        return [str(value) if value in _INFINITE else value for value in values]
    return values


if __name__ == "__main__":
    main()
