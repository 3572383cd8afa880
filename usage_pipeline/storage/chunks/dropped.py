"""Marks of dropped rows (ops.dropped_spans): a span without rows that has a mark was not empty."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import psycopg

from usage_pipeline.storage.sql import load


@dataclass(frozen=True, slots=True)
class DropRules:
    """What those who make roll-ups want to do before rows of a table (schema.name) go away for ever, from `start` to `end`.

    `keep` is called in the transaction that drops the rows, before it locks them. Rows that come meanwhile make their windows
    stale, and then the transaction is rolled back. `needs_rows`: rows that are only in a file must be read back before.
    """

    keep: Callable[[psycopg.Connection, str, datetime, datetime], None]
    needs_rows: Callable[[psycopg.Connection, str, datetime, datetime], bool]


def mark_dropped(
    connection: psycopg.Connection, table: str, start: datetime, end: datetime, *, reason: str, edges_kept: bool = True
) -> None:
    """Marks a half-open span of a table (schema.name) as dropped, within the transaction that drops its rows."""
    arguments = {"table": table, "start": start, "end": end, "reason": reason, "edges_kept": edges_kept}
    connection.execute(load("storage/chunks/insert_dropped_span"), arguments)


def dropped_spans(connection: psycopg.Connection, table: str) -> list[tuple[datetime, datetime]]:
    """The spans of a table (schema.name) whose rows were dropped, oldest first."""
    return connection.execute(load("storage/chunks/select_dropped_spans"), {"table": table}).fetchall()
