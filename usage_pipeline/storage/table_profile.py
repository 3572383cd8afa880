"""Counts rows and the share of nulls in each nullable column, at bounded cost."""

from collections.abc import Sequence
from dataclasses import dataclass

import psycopg
from psycopg import sql as compose

from usage_pipeline.storage.catalog import stored_catalog
from usage_pipeline.storage.sql import composed, load, relation

# More rows of one partition are not looked at: so many take about half a second.
MOST_ROWS = 1_000_000
# Of a table with more rows PostgreSQL's own statistics are told.
_MOST_COUNTED_ROWS = 100_000
_DECIMALS = 4


@dataclass(frozen=True, slots=True)
class Profile:
    """Rows, and the share of nulls (0 to 1) in each nullable column. If not exact, they are PostgreSQL's estimates."""

    rows: int
    null_shares: dict[str, float]
    is_exact: bool = True


def partition_null_shares(connection: psycopg.Connection, table: str, column: str, value: object) -> dict[str, float]:
    """Shares of nulls in the rows of `table` (schema.name) whose `column` has that value. An index must begin with `column`."""
    if not nullable(table):
        return {}
    query = composed(
        "storage/profile_rows", table=relation(table), column=compose.Identifier(column), counts=null_counts(table)
    )
    [(rows, filled)] = connection.execute(query, {"value": value, "most": MOST_ROWS}).fetchall()
    return null_shares(table, rows, filled)


def profile_table(connection: psycopg.Connection, table: str) -> Profile:
    """The profile of a whole table. A small table is counted, a large one estimated."""
    [(estimate, shares)] = connection.execute(load("storage/estimate_table"), {"table": table}).fetchall()
    if estimate > _MOST_COUNTED_ROWS and shares is not None:
        return Profile(estimate, {name: round(shares.get(name, 0.0), _DECIMALS) for name in nullable(table)}, False)
    query = composed("storage/profile_table", table=relation(table), counts=null_counts(table))
    [(rows, filled)] = connection.execute(query, {"most": MOST_ROWS}).fetchall()
    return Profile(rows, null_shares(table, rows, filled))


def nullable(table: str) -> list[str]:
    """The nullable columns of a table, in their order."""
    return [column.name for column in stored_catalog()[table].columns if column.is_nullable]


def null_counts(table: str) -> compose.Composed:
    """SQL for the elements of an array: how many rows of `part` have a value in each nullable column."""
    return compose.SQL(", ").join(
        compose.SQL("count({})").format(compose.Identifier("part", name)) for name in nullable(table)
    )


def null_shares(table: str, rows: int, filled: Sequence[int]) -> dict[str, float]:
    """The counts of `null_counts` as shares of nulls. Empty when there are no rows."""
    if not rows:
        return {}
    return {name: round(1 - count / rows, _DECIMALS) for name, count in zip(nullable(table), filled, strict=True)}
