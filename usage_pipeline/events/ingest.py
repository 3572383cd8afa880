"""Stores batches of usage events and message archives, each item once. One function for HTTP, landed files and replays."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

import psycopg
from psycopg import sql as compose

from usage_pipeline.events.documents import Items
from usage_pipeline.events.model import EventWindow, Item, Parse, parse_archive, parse_event
from usage_pipeline.settings import Settings
from usage_pipeline.storage.partitions import ensure_chunks
from usage_pipeline.storage.sql import load
from usage_pipeline.values import Malformed

# A partition may be archived between our look and our insert; then the batch is stored anew, with a partition of its own.
_ATTEMPTS = 3
_LINES_PER_WRITE = 500


@dataclass(frozen=True, slots=True)
class Kind:
    """What can be ingested: its name (also that of the member that holds the items of a document), tables and queries."""

    name: Literal["events", "archives"]
    dead_letter_family: str
    table: str
    staging_table: str
    stage: str
    insert: str
    select_unstored: str
    parse: Parse


EVENTS = Kind(
    "events",
    "usage_event",
    "analytics.usage_events",
    "staged_usage_event",
    "events/stage_usage_event",
    "events/insert_usage_events",
    "events/select_unstored_events",
    parse_event,
)
ARCHIVES = Kind(
    "archives",
    "message_archive",
    "analytics.message_archives",
    "staged_message_archive",
    "events/stage_message_archive",
    "events/insert_message_archives",
    "events/select_unstored_archives",
    parse_archive,
)


@dataclass(frozen=True, slots=True, order=True)
class Rejection:
    """An item that was not stored: its index in the batch, and what was expected and what came."""

    index: int
    reason: str


@dataclass(frozen=True, slots=True)
class LetterBox:
    """Where rejected items came from, when they are to become dead letters: a source, and its first item's position there."""

    source_key: bytes
    first_position: int = 0


@dataclass(frozen=True, slots=True)
class IngestReport:
    """What became of a batch: received = inserted + duplicates + conflicts + rejected."""

    batch_id: str
    received: int
    inserted: int
    duplicates: int
    conflicts: int
    rejected: tuple[Rejection, ...]


def ingest(
    connection: psycopg.Connection,
    kind: Kind,
    items: Items,
    *,
    source: str,
    settings: Settings,
    now: datetime | None = None,
    letters: LetterBox | None = None,
) -> IngestReport:
    """Stores the JSON items in one transaction on an autocommit connection; what it reports is committed.

    An item that breaks a rule is rejected by its index and costs no other. The same id again is a duplicate when all but
    the event's time is equal, and a conflict otherwise, kept in ops.event_conflicts. `source` goes to the ledger. Who has no
    caller to tell gives `letters`: rejected items become dead letters.
    Raises psycopg.Error when PostgreSQL fails; then nothing of the batch is stored, and it may be sent again.
    """
    now = now or datetime.now(UTC)
    batch_id = f"{int(now.timestamp() * 1000):013d}-{secrets.token_hex(5)}"
    parsed, rejected = _parse(kind, items, EventWindow.around(now, settings.retention_days))
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            connection.execute(load(kind.stage))
            if kind is EVENTS:
                moments = {item.event_time for item in parsed.values() if item.event_time is not None}
                ensure_chunks(connection, kind.table, moments, settings.chunk_time_interval_hours)
            with connection.transaction():
                report = _store(connection, kind, items, parsed, rejected, batch_id, source, settings)
                if letters is not None:
                    _keep_rejected(connection, kind, items, report.rejected, letters, now)
            return report
        except (psycopg.errors.CheckViolation, psycopg.errors.UndefinedTable):
            if attempt == _ATTEMPTS:
                raise
    raise AssertionError("unreachable: each attempt returns or raises")


def _parse(kind: Kind, items: Items, window: EventWindow) -> tuple[dict[int, Item], list[Rejection]]:
    parsed: dict[int, Item] = {}
    rejected: list[Rejection] = []
    for index, item in enumerate(items):
        try:
            parsed[index] = kind.parse(item, window)
        except Malformed as malformed:
            rejected.append(Rejection(index, str(malformed)))
    return parsed, rejected


def _store(
    connection: psycopg.Connection,
    kind: Kind,
    items: Items,
    parsed: dict[int, Item],
    rejected: Sequence[Rejection],
    batch_id: str,
    source: str,
    settings: Settings,
) -> IngestReport:
    with connection.cursor() as cursor:
        _stage(cursor, kind, parsed)
        if kind is ARCHIVES:
            hours = {hour for (hour,) in cursor.execute(load("events/select_archive_hours"))}
            ensure_chunks(connection, kind.table, hours, settings.chunk_time_interval_hours)
        [(stored,)] = cursor.execute(load(kind.insert), {"timezone": settings.usage_timezone}).fetchall()
        unstored = (
            cursor.execute(load(kind.select_unstored), {"stored": stored}).fetchall()
            if len(stored) < len(parsed)
            else []
        )
        unknown = [
            Rejection(position, f"event_id: expected the id of a stored event, came {parsed[position].event_id}")
            for position, _, stored_hash in unstored
            if stored_hash is None
        ]
        conflicts = [
            {
                "kind": kind.name,
                "event_id": parsed[position].event_id,
                "stored_hash": stored_hash,
                "other_hash": other_hash,
                "other_payload": bytes(items[position]),
                "batch_id": batch_id,
            }
            for position, other_hash, stored_hash in unstored
            if stored_hash is not None and stored_hash != other_hash
        ]
        if conflicts:
            cursor.executemany(load("events/insert_event_conflict"), conflicts)
        report = IngestReport(
            batch_id=batch_id,
            received=len(items),
            inserted=len(stored),
            duplicates=len(unstored) - len(unknown) - len(conflicts),
            conflicts=len(conflicts),
            rejected=tuple(sorted((*rejected, *unknown))),
        )
        cursor.execute(
            load("events/insert_ingest_batch"),
            {
                "batch_id": batch_id,
                "kind": kind.name,
                "source": source,
                "received": report.received,
                "inserted": report.inserted,
                "duplicates": report.duplicates,
                "conflicts": report.conflicts,
                "rejected": len(report.rejected),
            },
        )
    return report


def _keep_rejected(
    connection: psycopg.Connection,
    kind: Kind,
    items: Items,
    rejected: Sequence[Rejection],
    letters: LetterBox,
    now: datetime,
) -> None:
    if not rejected:
        return
    rows = [
        {
            "family": kind.dead_letter_family,
            "source_key": letters.source_key,
            "position": letters.first_position + rejection.index,
            "reason": rejection.reason,
            "raw": bytes(items[rejection.index]),
            "read_at": now,
        }
        for rejection in rejected
    ]
    with connection.cursor() as cursor:
        cursor.executemany(load("events/insert_item_dead_letter"), rows)


def _stage(cursor: psycopg.Cursor, kind: Kind, parsed: dict[int, Item]) -> None:
    lines = [b"%d\t%b\n" % (position, item.line) for position, item in parsed.items()]
    copy_to = compose.SQL("copy {} from stdin").format(compose.Identifier(kind.staging_table))
    with cursor.copy(copy_to) as copy:
        for first in range(0, len(lines), _LINES_PER_WRITE):
            copy.write(b"".join(lines[first : first + _LINES_PER_WRITE]))
