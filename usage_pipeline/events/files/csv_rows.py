"""The rows of a CSV file as a stream, as spreadsheets, databases and pandas write them. All cells are text."""

import csv
from collections.abc import Iterator
from typing import BinaryIO

from usage_pipeline.events.files.packed import BrokenFile
from usage_pipeline.events.files.rows import MOST_COLUMNS, Row, Table, WrongCells

_DELIMITERS = (",", ";", "\t")
# Excel's own first line, which names the delimiter.
_SEP = "sep="


def csv_table(plain: BinaryIO, limit_bytes: int) -> Table:
    """The columns of a file, and its rows, each with the number of the line where it begins.

    The delimiter is the one of `,` `;` and tab that makes the most columns of the header. Empty rows are passed over. A row
    with more or fewer cells than the header is Malformed. Raises BrokenFile, also while rows are read.
    """
    lines = _Lines(plain, limit_bytes)
    header = next(lines, "")
    delimiter = None
    if header.lower().startswith(_SEP):
        delimiter = header[len(_SEP) :].strip("\r\n")[:1] or None
        header = next(lines, "")
    if header.count('"') % 2:
        raise BrokenFile("expected names of columns in the first line, came an open quote")
    if not header.strip():
        return Table([], iter(()))
    try:
        delimiter = delimiter or max(_DELIMITERS, key=lambda one: len(_cells(header, one)))
        columns = [name.strip() for name in _cells(header, delimiter)]
    except (csv.Error, TypeError, ValueError) as error:
        raise BrokenFile(f"expected names of columns in the first line, came one with a fault: {error}") from None
    if len(columns) > MOST_COLUMNS:
        raise BrokenFile(f"expected at most {MOST_COLUMNS} columns, came {len(columns)}")
    return Table(columns, _rows(lines, delimiter, columns, limit_bytes))


def _cells(line: str, delimiter: str) -> list[str]:
    return next(csv.reader([line], delimiter=delimiter), [])


def _rows(lines: "_Lines", delimiter: str, columns: list[str], limit_bytes: int) -> Iterator[Row]:
    # For the whole process: another reader with a smaller one would cut nothing, it would fail.
    if csv.field_size_limit() < limit_bytes:
        csv.field_size_limit(limit_bytes)
    reader = csv.reader(lines, delimiter=delimiter)
    count = len(columns)
    first = lines.number + 1
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise BrokenFile(f"line {first}: expected CSV, came a row with a fault: {error}") from None
        if len(cells) == count:
            row = dict(zip(columns, cells, strict=True))
            if any(cells):
                yield first, row
        elif any(cells):
            yield first, WrongCells(count, cells)
        lines.row_bytes = 0
        first = lines.number + 1


class _Lines(Iterator[str]):
    """Lines as text. The lines of one row may together have `limit_bytes`: a quote that is never closed ends there."""

    def __init__(self, plain: BinaryIO, limit_bytes: int) -> None:
        self._plain = plain
        self._limit_bytes = limit_bytes
        self.number = 0
        self.row_bytes = 0

    def __next__(self) -> str:
        line = self._plain.readline(self._limit_bytes + 1)
        if not line:
            raise StopIteration
        self.number += 1
        self.row_bytes += len(line)
        if self.row_bytes > self._limit_bytes:
            raise BrokenFile(
                f"line {self.number}: expected rows of at most {self._limit_bytes} bytes (MAX_GZIP_SIZE x 20), came more"
            )
        try:
            return line.decode("utf-8-sig" if self.number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            # Not what is in the line, which may be of a person: the reason is kept.
            raise BrokenFile(
                f'line {self.number}: expected UTF-8 (in Excel: "CSV UTF-8"), came byte 0x{line[error.start]:02x}'
            ) from None
