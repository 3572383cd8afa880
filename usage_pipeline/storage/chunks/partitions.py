"""Creates partitions: raw tables by day, events by chunks of hours. Ahead of time, and when a batch needs one."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import psycopg
from psycopg import sql as compose

from usage_pipeline.storage.sql import load, relation

RAW_TABLES = ("raw.api_key_deltas", "raw.provider_deltas", "raw.token_deltas", "raw.request_events")
DAYS_AHEAD = 3


def ensure_partitions(connection: psycopg.Connection, table: str, days: Iterable[date]) -> list[date]:
    """Creates the partitions of `table` (schema.name) that `days` need, and returns the days that were missing.

    Runs in its own transaction on an autocommit connection. Two processes may call at once: an advisory lock per table lets one
    create the partitions, and the other finds them.
    """
    wanted = sorted(set(days))
    if not _missing(connection, table, wanted):
        return []
    with connection.transaction():
        connection.execute("select pg_advisory_xact_lock(hashtext('partitions'), hashtext(%s))", (table,))
        missing = _missing(connection, table, wanted)
        for day in missing:
            midnight = datetime(day.year, day.month, day.day, tzinfo=UTC)
            _create(connection, table, midnight, midnight + timedelta(days=1))
    return missing


def has_partition(connection: psycopg.Connection, table: str, day: date) -> bool:
    """Whether `table` (schema.name) has a partition for that day."""
    return not _missing(connection, table, [day])


def ensure_partitions_ahead(connection: psycopg.Connection) -> None:
    """Creates the partitions of yesterday, today and the next `DAYS_AHEAD` days, for each raw table."""
    today = datetime.now(UTC).date()
    days = [today + timedelta(days=offset) for offset in range(-1, DAYS_AHEAD + 1)]
    for table in RAW_TABLES:
        ensure_partitions(connection, table, days)


def _missing(connection: psycopg.Connection, table: str, days: list[date]) -> list[date]:
    rows = connection.execute(load("storage/chunks/select_missing_days"), {"parent": table, "days": days}).fetchall()
    return [day for (day,) in rows]


@dataclass(frozen=True, slots=True)
class Chunk:
    """A partition by time (schema.name): half-open, from `start` to `end`."""

    name: str
    start: datetime
    end: datetime


def chunks(connection: psycopg.Connection, table: str) -> list[Chunk]:
    """The partitions of `table` (schema.name), oldest first. Empty for a table without native partitions."""
    rows = connection.execute(load("storage/chunks/select_partition_bounds"), {"parent": table})
    return [Chunk(name, start.astimezone(UTC), end.astimezone(UTC)) for name, start, end in rows]


def ensure_chunks(
    connection: psycopg.Connection, table: str, moments: Iterable[datetime], interval_hours: int
) -> list[Chunk]:
    """Creates the partitions of `table` that hold these moments, and returns those that were missing.

    Chunks begin at multiples of `interval_hours` since the epoch. A chunk that would overlap partitions of an earlier interval
    is cut at their bounds. Two processes may call at once. A hypertable makes its own chunks, and gets none from here.
    """
    wanted = sorted(set(moments))
    if not wanted or not _uncovered(wanted, chunks(connection, table)) or not _is_partitioned(connection, table):
        return []
    created: list[Chunk] = []
    with connection.transaction():
        connection.execute("select pg_advisory_xact_lock(hashtext('partitions'), hashtext(%s))", (table,))
        existing = chunks(connection, table)
        while missing := _uncovered(wanted, existing):
            start, end = _span_of(missing[0], existing, timedelta(hours=interval_hours))
            chunk = Chunk(_create(connection, table, start, end), start, end)
            existing.append(chunk)
            created.append(chunk)
    return created


def ensure_span(
    connection: psycopg.Connection, table: str, start: datetime, end: datetime, interval_hours: int
) -> list[Chunk]:
    """Creates the missing partitions of `table` in a half-open span of time, and returns them."""
    created: list[Chunk] = []
    moment = start
    while moment < end:
        made = ensure_chunks(connection, table, [moment], interval_hours)
        created += made
        covering = [chunk.end for chunk in chunks(connection, table) if chunk.start <= moment < chunk.end]
        if not covering:
            # A hypertable makes its own.
            break
        moment = covering[0]
    return created


def drop_partition(connection: psycopg.Connection, table: str, chunk: Chunk, *, only_if_empty: bool) -> bool:
    """Drops a partition within the caller's transaction. False when it is gone, or has rows although it must be empty.

    It takes the locks in the order that all use: the lock of `ensure_partitions`, the parent, the partition. A writer that
    waits meanwhile then finds no partition for its rows, and begins again.
    """
    connection.execute("select pg_advisory_xact_lock(hashtext('partitions'), hashtext(%s))", (table,))
    names = {"parent": relation(table), "partition": relation(chunk.name)}
    connection.execute(compose.SQL("lock table only {parent} in access exclusive mode").format(**names))
    if chunk not in chunks(connection, table):
        return False
    connection.execute(compose.SQL("lock table {partition} in access exclusive mode").format(**names))
    row_query = compose.SQL("select from {partition} limit 1").format(**names)
    if only_if_empty and connection.execute(row_query).fetchone() is not None:
        return False
    connection.execute(compose.SQL("drop table {partition}").format(**names))
    return True


def _uncovered(moments: Sequence[datetime], existing: Sequence[Chunk]) -> list[datetime]:
    return [moment for moment in moments if not any(chunk.start <= moment < chunk.end for chunk in existing)]


def _span_of(moment: datetime, existing: Sequence[Chunk], interval: timedelta) -> tuple[datetime, datetime]:
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    start = epoch + (moment - epoch) // interval * interval
    end = start + interval
    start = max((start, *(chunk.end for chunk in existing if chunk.end <= moment)))
    end = min((end, *(chunk.start for chunk in existing if chunk.start > moment)))
    return start, end


def _create(connection: psycopg.Connection, parent: str, first: datetime, following: datetime) -> str:
    """Creates the partition from `first` to `following`, and returns its name. The database names it by `first`."""
    [(name,)] = connection.execute("select ops.create_partition(%s, %s, %s)", (parent, first, following)).fetchall()
    return str(name)


def _is_partitioned(connection: psycopg.Connection, table: str) -> bool:
    row = connection.execute("select relkind = 'p' from pg_class where oid = %s::text::regclass", (table,)).fetchone()
    return bool(row and row[0])
