"""Rows of tables, whatever file they are in. No reading here."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from usage_pipeline.values import Malformed

MOST_COLUMNS = 1_000
# The index of a data frame, which has no name: `to_csv`, `to_csv` of what was read so, and `to_parquet`.
_INDEXES = ("Unnamed: ", "__index_level_")

# The position of a row, and its cells by the names of the columns, or why it is no row.
Row = tuple[int, Mapping[str, Any] | Malformed]


class WrongCells(Malformed):
    """A row with more or fewer cells than there are columns, or with other rows in its cells."""

    def __init__(self, reason: str, cells: list[str]) -> None:
        super().__init__(reason)
        self.cells = cells


@dataclass(frozen=True, slots=True)
class Table:
    """The columns of a file and its rows, which are read when they are asked for.

    `has_decimal_comma`: it may be from a country where 1.000 is a thousand.
    """

    columns: list[str]
    rows: Iterator[Row]
    has_decimal_comma: bool = False


def is_index(column: str) -> bool:
    """Whether a column is the index of a data frame, which means nothing to us."""
    return not column or column.startswith(_INDEXES)
