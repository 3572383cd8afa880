"""Numbers that checks tell beside their faults, so that Dagster plots them: rows that were looked at, and ages in seconds."""

from datetime import date, datetime, timedelta

import psycopg
from psycopg import sql as compose

from usage_pipeline.checks.counters import COUNTER_TABLES, overdue_days
from usage_pipeline.checks.windows import overdue_windows
from usage_pipeline.rollups.calendar import Grain
from usage_pipeline.storage.sql import composed, relation


def rows_of_days(connection: psycopg.Connection, table: str, day_column: str, first: date, last: date) -> int:
    """How many rows of a table (schema.name) are of these days, both included."""
    query = composed("checks/count_rows", table=relation(table), day=compose.Identifier(day_column))
    [(rows,)] = connection.execute(query, {"first": first, "until": last + timedelta(days=1)}).fetchall()
    return int(rows)


def rows_of_totals(connection: psycopg.Connection, family: str) -> int:
    """How many running totals a family has."""
    query = compose.SQL("select count(*) from {}").format(relation(COUNTER_TABLES[family].totals))
    [(rows,)] = connection.execute(query).fetchall()
    return int(rows)


def overdue_day_seconds(connection: psycopg.Connection, family: str, *, today: date, now: datetime) -> float:
    """How long ago the counts of an overdue day changed, of the one that waits longest; 0 when none is overdue."""
    return _longest_ago([at for _, at in overdue_days(connection, family, today=today, now=now)], now)


def overdue_window_seconds(connection: psycopg.Connection, grain: Grain, now: datetime, time_zone: str) -> float:
    """How long ago the events of an overdue window changed, of the one that waits longest; 0 when none is overdue."""
    return _longest_ago([at for _, at in overdue_windows(connection, grain, now, time_zone)], now)


def _longest_ago(moments: list[datetime], now: datetime) -> float:
    return (now - min(moments)).total_seconds() if moments else 0.0
