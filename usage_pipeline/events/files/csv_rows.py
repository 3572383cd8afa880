"""The rows of a CSV file as a stream, as spreadsheets, databases and pandas write them. All cells are text."""

import csv
from collections.abc import Callable, Iterator
from functools import partial
from typing import BinaryIO

from usage_pipeline.events.files.packed import BrokenFile
from usage_pipeline.events.files.rows import MOST_COLUMNS, Row, Table, WrongCells, is_index
from usage_pipeline.values import shown

_DELIMITERS = (",", ";", "\t")
# Excel's own first line, which names the delimiter.
_SEP = "sep="
# A quote around the first columns may well end in a line that has the other ones.
_FEWEST_INSIDE = 2


def csv_table(plain: BinaryIO, limit_bytes: int) -> Table:
    """The columns of a file, and its rows, each with the number of the line where it begins.

    The delimiter is the one of `,` `;` and tab that makes the most columns of the header. Empty rows are passed over. A row
    with more or fewer cells than the header is Malformed, and so is one that is not UTF-8, and one with other rows inside of a
    quote: a quote that is not meant as one would swallow them. Raises BrokenFile, also while rows are read.
    """
    lines = _Lines(plain, limit_bytes)
    header = next(lines, "")
    delimiter = None
    if header.lower().startswith(_SEP):
        delimiter = header[len(_SEP) :].strip("\r\n")[:1] or None
        header = next(lines, "")
    if lines.odd_byte is not None:
        raise BrokenFile(f"line {lines.number}: {lines.odd_byte}")
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
    named = [name for name in columns if not is_index(name)]
    if len(set(named)) < len(named):
        raise BrokenFile("expected columns of different names, came two of one name. Nothing was stored")
    return Table(columns, _rows(lines, delimiter, columns, limit_bytes), has_decimal_comma=delimiter == ";")


def _cells(line: str, delimiter: str) -> list[str]:
    return next(csv.reader([line], delimiter=delimiter), [])


def _rows(lines: "_Lines", delimiter: str, columns: list[str], limit_bytes: int) -> Iterator[Row]:
    # For the whole process: another reader with a smaller one would cut nothing, it would fail.
    if csv.field_size_limit() < limit_bytes:
        csv.field_size_limit(limit_bytes)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    count = len(columns)
    lines.seems_row = partial(_seems_row, delimiter=delimiter, count=count)
    lines.next_row()
    first = lines.number + 1
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            # Where the next row begins, nobody knows: a quote may hold line breaks.
            raise BrokenFile(
                f"line {first}: expected CSV, came a row with a fault: {error} (line {lines.number}). "
                f"Nothing from line {first} on was read. A quote in a cell is doubled, and the cell in quotes"
            ) from None
        if lines.odd_byte is not None:
            yield first, WrongCells(lines.odd_byte, [_printable(cell) for cell in cells])
        elif lines.inner_row is not None:
            reason = (
                f"expected a row, came several inside of a quote: lines {first} to {lines.number}, of which none was stored "
                f"(line {lines.inner_row} seems a row). A quote in a cell is doubled, and the cell in quotes"
            )
            yield first, WrongCells(reason, cells)
        elif len(cells) == count:
            row = dict(zip(columns, cells, strict=True))
            if any(cells):
                yield first, row
        elif any(cells):
            yield first, WrongCells(_wrong_count(count, cells), cells)
        lines.next_row()
        first = lines.number + 1


def _printable(cell: str) -> str:
    return cell.encode(errors="surrogateescape").decode(errors="backslashreplace")


def _wrong_count(expected: int, cells: list[str]) -> str:
    return f"expected {expected} cells, came {len(cells)}: {shown(','.join(cells).encode())}"


def _seems_row(line: str, delimiter: str, count: int) -> bool:
    """Whether a line inside of a row is a row by itself. In prose there are spaces behind its commas."""
    if line.count(delimiter) < count - 1:
        return False
    try:
        cells = _cells(line, delimiter)
    except csv.Error:
        return False
    # Behind a quote that is closed here, the cells are those of the row that it is in.
    end = next((place for place, cell in enumerate(cells) if cell.endswith('"')), count - 1)
    inside = cells[1 : end + 1]
    spaced = sum(cell.startswith(" ") for cell in inside)
    return len(cells) == count and len(inside) >= _FEWEST_INSIDE and 2 * spaced < len(inside)


class _Lines(Iterator[str]):
    """Lines as text. The lines of one row may together have `limit_bytes`: a quote that is never closed ends there.

    `inner_row`: the number of the first line that is inside of a row and seems one by itself. `odd_byte`: of a row that is not
    UTF-8, what was expected and what came.
    """

    def __init__(self, plain: BinaryIO, limit_bytes: int) -> None:
        self._plain = plain
        self._limit_bytes = limit_bytes
        self.number = 0
        self.inner_row: int | None = None
        self.odd_byte: str | None = None
        self.seems_row: Callable[[str], bool] = lambda _: False
        self._row_bytes = 0

    def next_row(self) -> None:
        """The next line begins a row."""
        self._row_bytes = 0
        self.inner_row = self.odd_byte = None

    def __next__(self) -> str:
        line = self._plain.readline(self._limit_bytes + 1)
        if not line:
            raise StopIteration
        self.number += 1
        is_inside = self._row_bytes > 0
        self._row_bytes += len(line)
        if self._row_bytes > self._limit_bytes:
            raise BrokenFile(
                f"line {self.number}: expected rows of at most {self._limit_bytes} bytes (MAX_GZIP_SIZE x 20), came more"
            )
        encoding = "utf-8-sig" if self.number == 1 else "utf-8"
        try:
            text = line.decode(encoding)
        except UnicodeDecodeError as error:
            # Not what is in the line, which may be of a person: the reason is kept.
            came = f'expected UTF-8 (in Excel: "CSV UTF-8"), came byte 0x{line[error.start]:02x}'
            self.odd_byte = self.odd_byte or (f"{came} in line {self.number}" if is_inside else came)
            text = line.decode(encoding, errors="surrogateescape")
        if is_inside and self.inner_row is None and self.seems_row(text):
            self.inner_row = self.number
        return text
