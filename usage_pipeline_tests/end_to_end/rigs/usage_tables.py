"""Compares the tables and views of usage events with what pandas makes of the events."""

from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pandas as pd
import psycopg

from usage_pipeline_tests.end_to_end.rigs.usage_frames import (
    TABLES,
    Rows,
    Table,
    expected_latencies,
    expected_rows,
    tagged,
)

_COST_USD, _LATENCY_MS = Decimal("1e-12"), 1e-9


def assert_tables_equal(
    connection: psycopg.Connection, frame: pd.DataFrame, tags: Sequence[str], tables: Sequence[Table] = TABLES
) -> None:
    """Counts to the unit, costs to 1e-12 US dollars, percentiles to 1e-9 ms. `tags` are those of ROLLUP_TAGS."""
    by_tag = tagged(frame, tags)
    for table in tables:
        expected = expected_rows(by_tag if "tag" in table.key else frame, table)
        found = stored_rows(connection, table)
        only = {"stored": found.keys() - expected.keys(), "expected": expected.keys() - found.keys()}
        assert not any(only.values()), f"{table.name}: rows that are only {only}"
        for key, row in expected.items():
            differing = {
                name: (found[key][name], value) for name, value in row.items() if _differ(found[key][name], value)
            }
            assert not differing, f"{table.name} {key}: stored and expected {differing}"
    if tables is TABLES:
        assert stored_latencies(connection) == expected_latencies(frame)


def _differ(one: Any, other: Any) -> bool:
    if isinstance(one, Decimal) and isinstance(other, Decimal):
        return abs(one - other) > _COST_USD
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) > _LATENCY_MS
    return bool(one != other)


def stored_rows(connection: psycopg.Connection, table: Table) -> Rows:
    """(window, *key) -> the columns of its row. No unit is none."""
    names = [table.column, *table.key]
    rows = connection.execute(f"select {', '.join([*names, *table.shown])} from {table.name}").fetchall()
    found = {_key(row[: len(names)]): dict(zip(table.shown, row[len(names) :], strict=True)) for row in rows}
    assert len(found) == len(rows)
    for row in found.values():
        if table.has_units:
            row["other_units"] = row["other_units"] or {}
    return found


def _key(of_row: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(at.astimezone(UTC) if isinstance(at, datetime) else at for at in of_row)


def stored_latencies(connection: psycopg.Connection) -> dict[tuple[Any, ...], dict[int, int]]:
    """(day, team, service, provider, model) -> how many requests took how many milliseconds."""
    key = "usage_date, team, service, provider, model"
    rows = connection.execute(f"select {key}, latencies_ms, requests from analytics.usage_latency_daily")
    return {row[:5]: dict(zip(row[5], row[6], strict=True)) for row in rows}
