"""Day partitions of the raw tables: created ahead, and on demand for a day that a drain meets."""

from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta

import psycopg
from psycopg import sql as compose

from usage_pipeline.storage.sql import load

RAW_TABLES = ("raw.api_key_deltas", "raw.provider_deltas", "raw.token_deltas", "raw.request_events")
DAYS_AHEAD = 3


def ensure_partitions(connection: psycopg.Connection, table: str, days: Iterable[date]) -> list[date]:
    """Creates the partitions of `table` (schema.name) that `days` need, and returns the days that were missing.

    Runs in a transaction of its own on an autocommit connection. Two processes may ask at once: an advisory lock per
    table lets one create and the other find them.
    """
    wanted = sorted(set(days))
    if not _missing(connection, table, wanted):
        return []
    with connection.transaction():
        connection.execute("select pg_advisory_xact_lock(hashtext('partitions'), hashtext(%s))", (table,))
        missing = _missing(connection, table, wanted)
        schema, name = table.split(".")
        for day in missing:
            names = {
                "parent": compose.Identifier(schema, name),
                "partition": compose.Identifier(schema, f"{name}_{day:%Y%m%d}"),
                "first_day": compose.Literal(day.isoformat()),
                "next_day": compose.Literal((day + timedelta(days=1)).isoformat()),
            }
            connection.execute(compose.SQL(load("storage/create_day_partition")).format(**names))
            connection.execute(compose.SQL(load("storage/attach_day_partition")).format(**names))
    return missing


def has_partition(connection: psycopg.Connection, table: str, day: date) -> bool:
    """Whether `table` (schema.name) has a partition for that day."""
    return not _missing(connection, table, [day])


def ensure_partitions_ahead(database_url: str) -> None:
    """Yesterday, today and the next `DAYS_AHEAD` days, for each raw table."""
    today = datetime.now(UTC).date()
    days = [today + timedelta(days=offset) for offset in range(-1, DAYS_AHEAD + 1)]
    with psycopg.connect(database_url, autocommit=True) as connection:
        for table in RAW_TABLES:
            ensure_partitions(connection, table, days)


def _missing(connection: psycopg.Connection, table: str, days: list[date]) -> list[date]:
    rows = connection.execute(load("storage/select_missing_days"), {"parent": table, "days": days}).fetchall()
    return [day for (day,) in rows]
