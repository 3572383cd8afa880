"""Rules between raw rows, daily tables and running totals of the counters. A check returns a line for each fault.

It returns at most MOST_FAULTS lines. Each query is one statement, so one snapshot: drains and roll-ups may run meanwhile.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

import psycopg
from psycopg import sql as compose

from usage_pipeline.rollups.daily import DAILY_TABLES, DailyTable
from usage_pipeline.storage.catalog import columns
from usage_pipeline.storage.sql import column_list, composed, load, relation

MOST_FAULTS = 1_000
# The counters in Redis live for so long.
EMPTY_DAYS_BACK = 7
# What somebody took off a merchant's day is below 0.
_SIGNED = frozenset({"reset_offset"})
_NUMBERS = frozenset({"bigint", "integer", "smallint", "numeric", "double precision"})


@dataclass(frozen=True, slots=True)
class CounterTables:
    """The tables of a family of counters, with the columns that name a row and those that are summed up."""

    daily: DailyTable
    totals: str
    keys: tuple[str, ...]
    counts: tuple[str, ...]

    def composed(self, query: str) -> compose.Composed:
        """A query of `sql/` that is written for the tables of all families."""
        return composed(
            query,
            raw=relation(self.daily.raw_table),
            daily=relation(self.daily.table),
            totals=relation(self.totals),
            keys=column_list(self.keys),
            counts=column_list(self.counts),
            sums=compose.SQL(", ").join(
                compose.SQL("sum({0})::numeric as {0}").format(compose.Identifier(name)) for name in self.counts
            ),
            totals_counts=self._counts_of("totals"),
            summed_counts=self._counts_of("summed"),
        )

    def _counts_of(self, side: str) -> compose.Composed:
        return compose.SQL(", ").join(
            compose.SQL("coalesce({}, 0)::numeric").format(compose.Identifier(side, name)) for name in self.counts
        )


_DAILY = {daily.family: daily for daily in DAILY_TABLES}
COUNTER_TABLES = {
    "api_key": CounterTables(
        _DAILY["api_key"],
        "usage.api_keys",
        ("api_key_id",),
        ("total_requests", "successful_requests", "failed_requests", "total_file_size", "total_files_uploaded"),
    ),
    "provider": CounterTables(
        _DAILY["provider"], "usage.provider_usage", ("api_key_id", "provider"), ("upload_count", "total_file_size")
    ),
    "token": CounterTables(_DAILY["token"], "usage.api_access_tokens", ("token_id",), ("usage_count",)),
}


def total_faults(connection: psycopg.Connection, family: str) -> list[str]:
    """Keys whose running total is not the sum of everything that was drained of them."""
    tables = COUNTER_TABLES[family]
    rows = connection.execute(tables.composed("checks/select_total_mismatches"), _arguments(tables))
    return [
        f"{_named(tables.keys, row)}: {_compared(tables, row[-2], row[-1], 'in the totals')}" for row in rows.fetchall()
    ]


def day_sum_faults(connection: psycopg.Connection, family: str, first: date, last: date) -> list[str]:
    """Keys of days (both included) whose daily row is not the sum of the raw rows. Days count that are rolled up, and whose
    raw rows are all there.
    """
    tables = COUNTER_TABLES[family]
    arguments = {**_arguments(tables), "first_day": first, "last_day": last}
    rows = connection.execute(tables.composed("checks/select_day_sum_mismatches"), arguments)
    return [
        f"{row[0]}, {_named(tables.keys, row[1:])}: {_compared(tables, row[-2], row[-1], 'in the day')}"
        for row in rows.fetchall()
    ]


def negative_faults(connection: psycopg.Connection, table: str, day_column: str, first: date, last: date) -> list[str]:
    """Rows of a table (schema.name) on these days, both included, that have a count below 0."""
    described = columns(connection, table)
    counts = [column.name for column in described if column.data_type in _NUMBERS and column.name not in _SIGNED]
    keys = [column.name for column in described if column.data_type in ("text", "date") or column.name == day_column]
    query = composed(
        "checks/select_negative_rows",
        table=relation(table),
        counts=column_list(counts),
        keys=column_list(keys),
        day=compose.Identifier(day_column),
    )
    arguments = {"first": first, "until": last + timedelta(days=1), "most": MOST_FAULTS}
    return [
        f"{', '.join(str(row[key]) for key in keys)}: "
        + ", ".join(f"{name} {row[name]}" for name in counts if (row[name] or 0) < 0)
        for (row,) in connection.execute(query, arguments)
    ]


def day_completeness_faults(connection: psycopg.Connection, family: str, *, today: date, now: datetime) -> list[str]:
    """Past days that are not rolled up although they should be, and empty days of the last week between days with usage."""
    span = {"first_day": today - timedelta(days=EMPTY_DAYS_BACK), "last_day": today}
    arguments = {**_arguments(COUNTER_TABLES[family]), "today": today, **span}
    empty = connection.execute(load("checks/select_empty_days"), arguments).fetchall()
    return [
        f"{day}: not rolled up since its counts changed at {at:%Y-%m-%d %H:%M}Z"
        for day, at in overdue_days(connection, family, today=today, now=now)
    ] + [f"{day}: no usage, but the days around it have some" for (day,) in empty]


def overdue_days(
    connection: psycopg.Connection, family: str, *, today: date, now: datetime
) -> list[tuple[date, datetime]]:
    """Past days that are not rolled up although they should be, each with the time at which its counts changed."""
    arguments = {**_arguments(COUNTER_TABLES[family]), "today": today, "now": now}
    return connection.execute(load("checks/select_overdue_days"), arguments).fetchall()


def _arguments(tables: CounterTables) -> dict[str, Any]:
    return {"family": tables.daily.family, "raw_table": tables.daily.raw_table, "most": MOST_FAULTS}


def _named(keys: Sequence[str], row: Sequence[Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in zip(keys, row, strict=False))


def _compared(tables: CounterTables, stored: Sequence[int], summed: Sequence[int], where: str) -> str:
    def differing() -> Iterator[str]:
        for name, one, other in zip(tables.counts, stored, summed, strict=True):
            if one != other:
                yield f"{name} {one} {where}, {other} drained"

    return "; ".join(differing())
