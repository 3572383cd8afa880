"""The manifest of archived partitions (ops.archives): which rows are only in a file. Readings; nothing here touches a file."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import psycopg
from psycopg.rows import class_row

from usage_pipeline.storage.chunks.tables import TABLES
from usage_pipeline.storage.sql import load


@dataclass(frozen=True, slots=True)
class Archive:
    """A row of the manifest; see the comments of ops.archives."""

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
    """The manifest, oldest first: of a table (schema.name), overlapping a half-open span of time."""
    arguments = {"table": table, "start": start, "end": end, "only_in_files": only_in_files}
    with connection.cursor(row_factory=class_row(Archive)) as cursor:
        return cursor.execute(load("storage/archives/select_archives"), arguments).fetchall()


def archives_of_day(connection: psycopg.Connection, day: date, timezone: ZoneInfo) -> list[Archive]:
    """Archives that hold rows of a day, and nothing else does: chunks of events that overlap it, and the raw tables' day."""
    start = datetime(day.year, day.month, day.day, tzinfo=timezone)
    following = day + timedelta(days=1)
    end = datetime(following.year, following.month, following.day, tzinfo=timezone)
    found: list[Archive] = []
    for table in TABLES:
        span = raw_span(day) if table.is_raw else (start, end)
        found += archives(connection, table=table.name, start=span[0], end=span[1], only_in_files=True)
    return found


def raw_span(day: date) -> tuple[datetime, datetime]:
    """How the manifest writes the day of a raw table, whose days are dates: from midnight to midnight, UTC."""
    start = datetime(day.year, day.month, day.day, tzinfo=UTC)
    return start, start + timedelta(days=1)


def is_only_in_file(connection: psycopg.Connection, table: str, start: datetime, end: datetime) -> bool:
    """Whether rows of that span are in a file and not in the table: what is computed from the table would lack them."""
    return bool(archives(connection, table=table, start=start, end=end, only_in_files=True))
