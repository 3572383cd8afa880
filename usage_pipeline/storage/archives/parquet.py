"""Writes rows of a table as zstd Parquet, and reads them back, exactly, one row group at a time: with COPY and pyarrow.

Text, whole numbers, times to the microsecond, dates, booleans and bytea have their own types in the file. Every other type
(jsonb, uuid, arrays) is kept as the text that PostgreSQL writes and reads.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from psycopg import sql as compose

from usage_pipeline.storage.archives.store import ArchiveDamaged
from usage_pipeline.storage.catalog import Column, columns
from usage_pipeline.storage.sql import column_list, relation

# A row group is what is held in memory: so many rows, or bytes of text, whichever comes first. One row may be 64 MB.
GROUP_ROWS = 20_000
GROUP_BYTES = 16 * 2**20
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST_MOMENT, _LAST_MOMENT = -62_135_596_800_000_000, 253_402_300_799_999_999


@dataclass(frozen=True, slots=True)
class _Kind:
    """How a column is read from PostgreSQL (`selected`, read as `read_as` from binary COPY), and its type in the file."""

    selected: str
    read_as: str
    arrow: pa.DataType


_TEXT = _Kind("{}::text", "text", pa.string())
# As epoch microseconds, exactly: extract() gives a numeric. PostgreSQL's own text of a time would be parsed row by row.
_TIME = _Kind("(extract(epoch from {}) * 1000000)::bigint", "int8", pa.timestamp("us", tz="UTC"))
_KINDS = {
    "text": _Kind("{}", "text", pa.string()),
    "bigint": _Kind("{}", "int8", pa.int64()),
    "integer": _Kind("{}", "int4", pa.int32()),
    "smallint": _Kind("{}", "int2", pa.int16()),
    "boolean": _Kind("{}", "bool", pa.bool_()),
    "bytea": _Kind("{}", "bytea", pa.binary()),
    "date": _Kind("{}", "date", pa.date32()),
    "timestamp with time zone": _TIME,
}


@dataclass(frozen=True, slots=True)
class Written:
    """The number of rows in a file, and a digest of their values, to compare it after it was read back."""

    rows: int
    digest: bytes


Group = list[list[Any]]
"""The values of a row group, column by column; times are epoch microseconds."""


def export(connection: psycopg.Connection, table: str, partition: str, local: Path, *, order_by: str) -> Written:
    """Writes the rows of `partition` (schema.name) with the columns of `table` to a local Parquet file.

    It reads the snapshot of the caller's transaction. Raises psycopg.Error.
    """
    listed = columns(connection, table)
    with ParquetWriter(local, listed) as writer:
        for group in _groups(connection, listed, partition, order_by):
            writer.write(group)
    return writer.written


class ParquetWriter:
    """Writes groups of column values to a local file, and keeps their digest."""

    def __init__(self, local: Path, listed: Sequence[Column]) -> None:
        fields = [
            pa.field(column.name, _kind(column).arrow, metadata={"postgresql": column.data_type}) for column in listed
        ]
        self._schema = pa.schema(fields)
        self._local = local
        self._rows = 0
        self._digest = blake2b(digest_size=32)

    def __enter__(self) -> "ParquetWriter":
        self._writer = pq.ParquetWriter(self._local, self._schema, compression="zstd", store_schema=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    def write(self, group: Group) -> None:
        """Writes one row group."""
        arrays = [_array(values, field.type) for values, field in zip(group, self._schema, strict=True)]
        self._writer.write_table(pa.Table.from_arrays(arrays, schema=self._schema), row_group_size=len(group[0]))
        self._rows += len(group[0])
        self._digest.update(_digest(group))

    @property
    def written(self) -> Written:
        return Written(self._rows, self._digest.digest())


class ParquetReader:
    """Reads a local file that `ParquetWriter` made. Raises ArchiveDamaged when it cannot read the file."""

    def __init__(self, local: Path, address: str) -> None:
        self._address = address
        self._file = self._guarded(lambda: pq.ParquetFile(local))

    def __enter__(self) -> "ParquetReader":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def rows(self) -> int:
        return int(self._file.metadata.num_rows)

    @property
    def names(self) -> list[str]:
        return list(self._file.schema_arrow.names)

    @property
    def listed(self) -> list[Column]:
        """The columns as they were in PostgreSQL."""
        return [
            Column(field.name, (field.metadata or {}).get(b"postgresql", b"text").decode(), field.nullable, "")
            for field in self._file.schema_arrow
        ]

    def groups(self) -> Iterator[Group]:
        """The values, one row group at a time."""
        for number in range(self._file.num_row_groups):
            yield self._guarded(partial(self._group, number))

    def columns(self, *names: str) -> Iterator[Group]:
        """The values of these columns only, in their order, one row group at a time."""

        def read(number: int) -> Group:
            table = self._file.read_row_group(number, columns=list(names))
            return [_values(table.column(name)) for name in names]

        for number in range(self._file.num_row_groups):
            yield self._guarded(partial(read, number))

    def has(self, column: str, values: Collection[str]) -> bool:
        """Whether a text column has one of these values. It reads only this column."""
        wanted = pa.array(list(values), pa.string())

        def is_in(number: int) -> bool:
            [found] = self._file.read_row_group(number, columns=[column])
            return bool(pc.any(pc.is_in(found, value_set=wanted)).as_py())

        return any(self._guarded(partial(is_in, number)) for number in range(self._file.num_row_groups))

    def written(self) -> Written:
        """Rows and digest of the file. It reads all of it."""
        digest = blake2b(digest_size=32)
        rows = 0
        for group in self.groups():
            rows += len(group[0])
            digest.update(_digest(group))
        return Written(rows, digest.digest())

    def _group(self, number: int) -> Group:
        return [_values(column) for column in self._file.read_row_group(number)]

    def _guarded(self, read: Callable[[], Any]) -> Any:
        try:
            return read()
        except (pa.ArrowException, OSError) as error:
            raise ArchiveDamaged(
                f"{self._address}: expected a readable Parquet file, came {type(error).__name__}"
            ) from None


def load_rows(connection: psycopg.Connection, table: str, reader: ParquetReader) -> int:
    """COPYs the rows of a file into `table`, within the caller's transaction, and returns their number.

    Columns that the table has, but the file does not, get their defaults. Raises psycopg.Error.
    """
    known = {column.name: column.data_type for column in columns(connection, table)}
    names = reader.names
    if missing := [name for name in names if name not in known]:
        raise ArchiveDamaged(f"{table}: expected all columns of the file, came a table without {', '.join(missing)}")
    written = [_restored(known[name]) for name in names]
    copy_in = compose.SQL("copy {} ({}) from stdin").format(relation(table), column_list(names))
    with connection.cursor() as cursor:
        with cursor.copy(copy_in) as copy:
            for group in reader.groups():
                texts = [
                    values if convert is None else [None if value is None else convert(value) for value in values]
                    for values, convert in zip(group, written, strict=True)
                ]
                for row in zip(*texts, strict=True):
                    copy.write_row(row)
        return cursor.rowcount


def _groups(connection: psycopg.Connection, listed: Sequence[Column], partition: str, order_by: str) -> Iterator[Group]:
    kinds = [_kind(column) for column in listed]
    selected = compose.SQL(", ").join(
        compose.SQL(kind.selected).format(compose.Identifier(column.name))
        for column, kind in zip(listed, kinds, strict=True)
    )
    copy_out = compose.SQL("copy (select {} from {} order by {}) to stdout (format binary)").format(
        selected, relation(partition), compose.Identifier(order_by)
    )
    with connection.cursor() as cursor, cursor.copy(copy_out) as copy:
        copy.set_types([kind.read_as for kind in kinds])
        rows: list[tuple[Any, ...]] = []
        size = 0
        for row in copy.rows():
            rows.append(row)
            size += sum(len(value) for value in row if isinstance(value, (str, bytes)))
            if len(rows) >= GROUP_ROWS or size >= GROUP_BYTES:
                yield [list(values) for values in zip(*rows, strict=True)]
                rows, size = [], 0
        if rows:
            yield [list(values) for values in zip(*rows, strict=True)]


def _kind(column: Column) -> _Kind:
    return _KINDS.get(column.data_type, _TEXT)


def _array(values: list[Any], arrow: pa.DataType) -> pa.Array:
    if pa.types.is_timestamp(arrow):
        for extreme in (fold((each for each in values if each is not None), default=0) for fold in (min, max)):
            # What could not be read back must not leave the table. An infinite time has failed before, as a bigint.
            if not _FIRST_MOMENT <= extreme <= _LAST_MOMENT:
                raise ValueError(f"expected times of the years 1 to 9999, came epoch microseconds {extreme}")
        return pa.array(values, pa.int64()).cast(arrow)
    return pa.array(values, arrow)


def _values(column: pa.ChunkedArray) -> list[Any]:
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.int64())
    values: list[Any] = column.to_pylist()
    return values


def _restored(data_type: str) -> Callable[[Any], object] | None:
    """How a value of the file is changed for COPY's text format. None: it stays as it is."""
    return _time_text if data_type == "timestamp with time zone" else None


def _time_text(epoch_microseconds: int) -> str:
    return (_EPOCH + timedelta(microseconds=epoch_microseconds)).isoformat()


def _digest(group: Group) -> bytes:
    return blake2b(msgspec.msgpack.encode(group), digest_size=32).digest()
