"""Encodes rows as CSV or Parquet, chunk by chunk, and gives the bytes of each chunk at once. No I/O."""

import csv
import io
from collections.abc import Sequence
from datetime import datetime
from decimal import ROUND_HALF_EVEN, Context, Decimal
from typing import Any, Protocol

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from usage_pipeline.exports.columns import Column
from usage_pipeline.texts import csv_cell
from usage_pipeline.values import utc_text

Row = Sequence[Any]
# Costs in Parquet: US dollars to 18 decimals, more than any price per token has.
MONEY = pa.decimal128(38, 18)
_EXACT = Context(prec=38, rounding=ROUND_HALF_EVEN)
_TYPES = {
    "text": pa.string(),
    "count": pa.int64(),
    "money": MONEY,
    "units": pa.string(),
    "time": pa.timestamp("us", tz="UTC"),
    "day": pa.date32(),
    "number": pa.float64(),
}


class Encoding(Protocol):
    """How rows become bytes. The caller calls `rows` for each chunk, then `end`, and sends each result before the next call."""

    def rows(self, rows: Sequence[Row]) -> bytes: ...
    def end(self) -> bytes: ...


class CsvEncoding:
    """RFC 4180 in UTF-8 with a header. Null is an empty cell. Text that a spreadsheet would compute gets a `'` (`csv_cell`)."""

    def __init__(self, columns: Sequence[Column]) -> None:
        self._columns = columns
        self._is_begun = False

    def rows(self, rows: Sequence[Row]) -> bytes:
        text = io.StringIO()
        writer = csv.writer(text)
        if not self._is_begun:
            self._is_begun = True
            writer.writerow([column.shown_name for column in self._columns])
        writer.writerows([_cell(value) for value in row] for row in rows)
        return text.getvalue().encode()

    def end(self) -> bytes:
        return b"" if self._is_begun else self.rows([])


class ParquetEncoding:
    """zstd Parquet with a row group for each chunk, and the type of each column."""

    def __init__(self, columns: Sequence[Column]) -> None:
        self._schema = pa.schema(
            [
                pa.field(
                    column.shown_name,
                    _TYPES[column.kind],
                    nullable=column.is_nullable,
                    metadata={"description": column.description},
                )
                for column in columns
            ]
        )
        self._money = [place for place, column in enumerate(columns) if column.kind == "money"]
        self._units = [place for place, column in enumerate(columns) if column.kind == "units"]
        self._sent = _Outbox()
        self._writer = pq.ParquetWriter(self._sent, self._schema, compression="zstd")

    def rows(self, rows: Sequence[Row]) -> bytes:
        values: list[Any] = [list(column) for column in zip(*rows, strict=True)] or [[] for _ in self._schema]
        for place in self._money:
            values[place] = [value and _to_18_decimals(value) for value in values[place]]
        for place in self._units:
            values[place] = [_json(value) for value in values[place]]
        arrays = [pa.array(column, field.type) for column, field in zip(values, self._schema, strict=True)]
        self._writer.write_table(pa.Table.from_arrays(arrays, schema=self._schema))
        return self._sent.taken()

    def end(self) -> bytes:
        self._writer.close()
        return self._sent.taken()


class _Outbox(io.RawIOBase):
    """A file whose bytes are taken out while it is written."""

    def __init__(self) -> None:
        super().__init__()
        self._pieces: list[bytes] = []
        self._written = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._written

    def write(self, piece: Any) -> int:
        data = bytes(piece)
        self._pieces.append(data)
        self._written += len(data)
        return len(data)

    def taken(self) -> bytes:
        whole = b"".join(self._pieces)
        self._pieces.clear()
        return whole


def _cell(value: Any) -> Any:
    if isinstance(value, str):
        return csv_cell(value)
    if isinstance(value, datetime):
        return utc_text(value)
    if isinstance(value, dict):
        return _json(value)
    return format(value, "f") if isinstance(value, Decimal) else value


def _json(counts: dict[str, int | float]) -> str:
    return msgspec.json.encode(counts).decode()


def _to_18_decimals(value: Decimal) -> Decimal:
    return value.quantize(Decimal("1e-18"), context=_EXACT)
