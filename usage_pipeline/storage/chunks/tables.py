"""The tables with a lifecycle. A chunk may go when its roll-ups are complete and its batches are finished."""

from dataclasses import dataclass

import psycopg

from usage_pipeline.storage.chunks.partitions import RAW_TABLES, Chunk
from usage_pipeline.storage.sql import load


@dataclass(frozen=True, slots=True)
class LifecycleTable:
    """A table (schema.name) in chunks along `key`. A raw table has a `family`, and its chunks are days.

    `mend` is the query that brings the rows of an older version, just read back from an archive, to what they are now.
    """

    name: str
    key: str
    family: str | None = None
    mend: str | None = None

    @property
    def is_raw(self) -> bool:
        return self.family is not None


# Archives of messages have no roll-up of their own: they leave by the same rule as the events that they belong to.
EVENT_TABLES = (
    LifecycleTable("analytics.message_archives", "event_time", mend="storage/archives/mend_message_archives"),
    LifecycleTable("analytics.usage_events", "event_time", mend="storage/archives/mend_usage_events"),
)
_FAMILIES = {
    "raw.api_key_deltas": "api_key",
    "raw.provider_deltas": "provider",
    "raw.token_deltas": "token",
    "raw.request_events": "event",
}
RAW = tuple(LifecycleTable(name, "usage_date", _FAMILIES[name]) for name in RAW_TABLES)
TABLES = EVENT_TABLES + RAW
BY_NAME = {table.name: table for table in TABLES}


def waiting_reason(connection: psycopg.Connection, table: LifecycleTable, chunk: Chunk) -> str | None:
    """Why a chunk must stay for now, or be read back from its file: a roll-up or a batch needs its rows. None: it may go.

    Weeks and months are made from daily tables, so nothing waits for them. In a transaction that holds the lock of the chunk,
    the answer stays right until the end.
    """
    arguments = {"start": chunk.start, "end": chunk.end, "family": table.family, "day": chunk.start.date()}
    query = "storage/chunks/find_unreleased_day" if table.is_raw else "storage/chunks/find_touched_source"
    row = connection.execute(load(query), arguments).fetchone()
    return str(row[0]) if row else None


def restored_reason(connection: psycopg.Connection, table: LifecycleTable, chunk: Chunk) -> str | None:
    """Why a chunk that was read back lately is not archived again: people need time to look at it and to backfill."""
    row = connection.execute(
        load("storage/chunks/find_restored_archive"), {"table": table.name, "start": chunk.start, "end": chunk.end}
    ).fetchone()
    return f"read back at {row[0]:%Y-%m-%d %H:%M}, stays for a day" if row else None
