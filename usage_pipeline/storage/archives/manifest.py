"""Reads the manifest of archived partitions (ops.archives): which rows are only in a file. Nothing here touches a file."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import psycopg
from psycopg.rows import class_row

from usage_pipeline.storage.chunks.tables import TABLES
from usage_pipeline.storage.sql import load


@dataclass(frozen=True, slots=True)
class Archive:
    """A row of the manifest. The comments of ops.archives explain its columns."""

    archive_id: int
    table_name: str
    chunk_start: datetime
    chunk_end: datetime
    address: str
    rows: int
    bytes: int
    checksum: str
    archived_at: datetime
    restored_at: datetime | None
    deleted_at: datetime | None

    @property
    def state(self) -> str:
        """Where the rows are now."""
        if self.restored_at:
            return "restored"
        return "deleted" if self.deleted_at else "archived"


def archives(
    connection: psycopg.Connection,
    *,
    table: str | None = None,
    start: datetime | None = None,
    end: datetime | None = None,
    only_in_files: bool = False,
) -> list[Archive]:
    """The rows of the manifest, oldest first, of a table (schema.name), and that overlap a half-open span of time."""
    arguments = {"table": table, "start": start, "end": end, "only_in_files": only_in_files}
    with connection.cursor(row_factory=class_row(Archive)) as cursor:
        return cursor.execute(load("storage/archives/select_archives"), arguments).fetchall()


def archives_of_day(connection: psycopg.Connection, day: date, timezone: ZoneInfo) -> list[Archive]:
    """Archives with rows of a day that are in no table: chunks of events that overlap the day, and the day of raw tables."""
    start = datetime(day.year, day.month, day.day, tzinfo=timezone)
    following = day + timedelta(days=1)
    end = datetime(following.year, following.month, following.day, tzinfo=timezone)
    found: list[Archive] = []
    for table in TABLES:
        span = raw_span(day) if table.is_raw else (start, end)
        found += archives(connection, table=table.name, start=span[0], end=span[1], only_in_files=True)
    return found


def raw_span(day: date) -> tuple[datetime, datetime]:
    """The span of a raw table's day in the manifest: from midnight to midnight in UTC, since raw days are dates."""
    start = datetime(day.year, day.month, day.day, tzinfo=UTC)
    return start, start + timedelta(days=1)


def is_only_in_file(connection: psycopg.Connection, table: str, start: datetime, end: datetime) -> bool:
    """Whether rows of that span are in a file and not in the table, so that a roll-up of the table would lack them."""
    return bool(archives(connection, table=table, start=start, end=end, only_in_files=True))
