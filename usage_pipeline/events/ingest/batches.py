"""Stores batches of usage events and message archives, each item once. HTTP, landed files and replays use one function."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import UUID

import psycopg
from msgspec import structs
from psycopg import sql as compose

from usage_pipeline.bindings import Binding
from usage_pipeline.drain.batch import new_batch_id
from usage_pipeline.events.ingest.bound import BoundSender
from usage_pipeline.events.ingest.documents import Items, Json
from usage_pipeline.events.ingest.model import (
    LANDING,
    MAX_ARCHIVE_BYTES,
    MAX_EVENT_BYTES,
    EventWindow,
    Item,
    Parse,
    parse_archive,
    parse_event,
    with_source,
    written_archive,
    written_event,
)
from usage_pipeline.settings import Settings
from usage_pipeline.storage.chunks.partitions import ensure_chunks
from usage_pipeline.storage.sql import load
from usage_pipeline.values import Malformed

# A partition may be archived between our look and our insert. Then the batch is stored again, with a new partition.
_ATTEMPTS = 3
_LINES_PER_WRITE = 500
_BYTES_PER_WRITE = 2**20
# Of a rejected item that is larger than any that can be stored.
_KEPT_OF_TOO_LARGE = 64 * 1024
# The rows of a batch that are kept from their check until they are written. Those beyond are made a second time: to keep them
# all would take as much memory again as the document.
KEPT_BYTES = 4 * 2**20
# In every time zone, each hour and each day begins with a quarter of an hour in UTC.
_QUARTER_SECONDS = 900


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of item: its name (also of the member that holds the items of a document), its tables and queries."""

    name: Literal["events", "archives"]
    dead_letter_family: str
    table: str
    staging_table: str
    stage: str
    insert: str
    select_unstored: str
    count_stored: str
    parse: Parse
    most_item_bytes: int
    # The first columns of its rows, which say whose they are.
    owners: tuple[str, ...]
    written: Callable[[Json], Any]

    def bound_to(self, binding: Binding) -> BoundSender:
        """What a sender who is bound may send."""
        return BoundSender(binding, self.owners, self.written)


EVENTS = Kind(
    "events",
    "usage_event",
    "analytics.usage_events",
    "staged_usage_event",
    "events/ingest/stage_usage_event",
    "events/ingest/insert_usage_events",
    "events/ingest/select_unstored_events",
    "events/ingest/count_stored_events",
    parse_event,
    MAX_EVENT_BYTES,
    ("user_id", "team", "service"),
    written_event,
)
ARCHIVES = Kind(
    "archives",
    "message_archive",
    "analytics.message_archives",
    "staged_message_archive",
    "events/ingest/stage_message_archive",
    "events/ingest/insert_message_archives",
    "events/ingest/select_unstored_archives",
    "events/ingest/count_stored_archives",
    parse_archive,
    MAX_ARCHIVE_BYTES,
    ("user_id", "service"),
    written_archive,
)


@dataclass(frozen=True, slots=True, order=True)
class Rejection:
    """An item that was not stored: its index in the batch, and what was expected and what came."""

    index: int
    reason: str


@dataclass(frozen=True, slots=True)
class LetterBox:
    """For rejected items that become dead letters: the source they came from, and the position in it of each item.

    `raws`: what is kept of each, where items are made of something else and may not come about.
    """

    source_key: bytes
    positions: Sequence[int]
    raws: Sequence[bytes] | None = None


@dataclass(frozen=True, slots=True)
class IngestReport:
    """The outcome of a batch: received = inserted + duplicates + conflicts + rejected."""

    batch_id: str
    received: int
    inserted: int
    duplicates: int
    conflicts: int
    rejected: tuple[Rejection, ...]


def joined(reports: Sequence[IngestReport]) -> IngestReport:
    """One report of the portions of a document, in their order: at least one. Indexes are those in the document."""
    rejected: list[Rejection] = []
    before = 0
    for report in reports:
        rejected.extend(Rejection(before + rejection.index, rejection.reason) for rejection in report.rejected)
        before += report.received
    return IngestReport(
        reports[0].batch_id,
        before,
        sum(report.inserted for report in reports),
        sum(report.duplicates for report in reports),
        sum(report.conflicts for report in reports),
        tuple(rejected),
    )


def ingest(
    connection: psycopg.Connection,
    kind: Kind,
    items: Items,
    *,
    source: str,
    settings: Settings,
    sender: str = LANDING,
    now: datetime | None = None,
    letters: LetterBox | None = None,
    binding: Binding | None = None,
) -> IngestReport:
    """Stores the JSON items in one transaction on an autocommit connection; what it reports is committed.

    An item that breaks a rule is rejected by its index; the others are stored. An item whose id is stored is a duplicate if
    only its time differs, else a conflict, which ops.event_conflicts keeps. `source` is noted with the batch. `sender` gives
    the ids that are no UUIDs, where the item names no source. With `letters`, rejected items become dead letters: use it when
    no caller hears of them. With a `binding` the sender hears of no item that it may not see: what has the id of such an item
    is stored under an id of its own, and is found by the same id again.
    Raises psycopg.Error when PostgreSQL fails. Then nothing of the batch is stored, and it may be sent again.
    """
    now = now or datetime.now(UTC)
    batch_id = new_batch_id(int(now.timestamp() * 1000))
    window = EventWindow.around(now, settings)
    bound = None if binding is None else kind.bound_to(binding)
    items = items if bound is None else bound.items(items)
    parsed, rejected = _parse(kind, items, window, sender, bound)
    batch = _Batch(batch_id, now, source, sender, kind, items, window, parsed, rejected, letters, binding)
    if binding is not None:
        batch.use_own_ids(_own_ids(connection, batch, binding))
    # What was kept apart before is there already.
    if kind is EVENTS and not batch.apart and (report := _store_new(connection, batch, settings)):
        return report
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return _store_any(connection, batch, settings)
        except (psycopg.errors.CheckViolation, psycopg.errors.UndefinedTable):
            if attempt == _ATTEMPTS:
                raise
        except _TakenByOthers as taken:
            # Others may take more of the ids meanwhile.
            if attempt == _ATTEMPTS:
                raise psycopg.errors.SerializationFailure("others store the same ids at the same time") from None
            batch.keep_apart(taken.positions)
    raise AssertionError("unreachable: each attempt returns or raises")


class _TakenByOthers(Exception):
    """Items have ids of rows that their sender may not see. Nothing of the batch is stored."""

    def __init__(self, positions: Sequence[int]) -> None:
        super().__init__(f"{len(positions)} items")
        self.positions = positions


def _own_ids(connection: psycopg.Connection, batch: "_Batch", binding: Binding) -> list[int]:
    """Positions of items that were kept apart before. These come first: what had their id may be gone by now."""
    own = {position: binding.own_id(item.event_id) for position, item in batch.parsed.items()}
    known = known_ids(connection, binding, own.values())
    return [position for position, event_id in own.items() if event_id in known]


def known_ids(connection: psycopg.Connection, binding: Binding, ids: Iterable[UUID]) -> set[UUID]:
    """Those of the ids that the binding has for events of its own."""
    # As one text: a thousand values would take as long as the query.
    arguments = {"ids": f"{{{','.join([each.hex for each in ids])}}}", "binding_id": binding.binding_id}
    return {event_id for (event_id,) in connection.execute(load("events/ingest/select_own_ids"), arguments)}


@dataclass(frozen=True, slots=True)
class _Batch:
    batch_id: str
    read_at: datetime
    source: str
    sender: str
    kind: Kind
    items: Items
    window: EventWindow
    parsed: dict[int, Item]
    rejected: list[Rejection]
    letters: LetterBox | None
    binding: Binding | None
    # Positions of items that are stored under an id of their own.
    apart: set[int] = field(default_factory=set)

    def whole(self, position: int) -> Item:
        """A valid item with its row."""
        item = self.parsed[position]
        if item.payload:
            return item
        whole = self.kind.parse(self.items[position], self.window, self.sender)
        return structs.replace(whole, event_id=item.event_id) if position in self.apart else whole

    def use_own_ids(self, positions: Iterable[int]) -> None:
        assert self.binding is not None  # noqa: S101  # nobody else has some
        for position in positions:
            item = self.parsed[position]
            self.parsed[position] = structs.replace(item, event_id=self.binding.own_id(item.event_id))
            self.apart.add(position)

    def keep_apart(self, positions: Sequence[int]) -> None:
        """Of items that have the ids of others: an event gets an id of its own, an archive has no event."""
        if self.kind is EVENTS:
            self.use_own_ids(positions)
            return
        for position in positions:
            self.rejected.append(self.of_unknown_event(position))
            del self.parsed[position]

    def of_unknown_event(self, position: int) -> Rejection:
        event_id = self.parsed[position].event_id
        return Rejection(position, f"event_id: expected the id of a stored event, came {event_id}")

    def kept_payload(self, position: int) -> bytes:
        """A valid item as it is kept out, to be read again by anybody."""
        return with_source(bytes(self.items[position]), self.sender)

    def report(self, *, inserted: int, duplicates: int, conflicts: int, rejected: Sequence[Rejection]) -> IngestReport:
        return IngestReport(self.batch_id, len(self.items), inserted, duplicates, conflicts, tuple(sorted(rejected)))


def _parse(
    kind: Kind, items: Items, window: EventWindow, sender: str, bound: BoundSender | None
) -> tuple[dict[int, Item], list[Rejection]]:
    parsed: dict[int, Item] = {}
    rejected: list[Rejection] = []
    kept = 0
    for index in range(len(items)):
        try:
            # Items that are made of what came in another format may refuse to be made.
            found = kind.parse(items[index], window, sender)
            if bound is not None:
                bound.expect_own(found)
            kept += len(found.payload)
            parsed[index] = found if kept <= KEPT_BYTES else structs.replace(found, payload=b"")
        except Malformed as malformed:
            rejected.append(Rejection(index, str(malformed)))
    return parsed, rejected


def _store_new(connection: psycopg.Connection, batch: _Batch, settings: Settings) -> IngestReport | None:
    """Stores a batch whose ids are all new and whose partitions all exist, in half the time. Nearly all batches are such.

    COPY right into the tables needs no staging, no sort and no join, and writes a page at a time. If an id is already stored,
    or a partition is missing, it stores nothing of the batch and returns None.
    """
    # In the order of ids, like the other way to store. So of two batches with common ids, one waits, and there is no deadlock.
    positions = sorted(batch.parsed, key=lambda position: batch.parsed[position].event_id.int)
    if not positions:
        return None
    events = [batch.parsed[position] for position in positions]
    # Most batches have none of the members that most events do not have.
    is_wide = any(event.is_wide for event in events)
    times = [event.event_time for event in events if event.event_time]
    keys = [f"{event.event_id.int:032x}\t{at.isoformat()}" for event, at in zip(events, times, strict=True)]
    report = batch.report(inserted=len(events), duplicates=0, conflicts=0, rejected=batch.rejected)
    try:
        with connection.transaction(), connection.cursor() as cursor:
            end = "\n" if batch.binding is None else f"\t{batch.binding.binding_id}\n"
            copy_ids = (
                "events/ingest/copy_usage_event_ids" if batch.binding is None else "events/ingest/copy_bound_event_ids"
            )
            with cursor.copy(load(copy_ids)) as copy:
                copy.write(
                    "".join([f"{key}\t\\\\x{event.payload_hash}{end}" for key, event in zip(keys, events, strict=True)])
                )
                # We put the rows together while the server is busy with the ids.
                rows: Iterable[bytes] = (
                    b"".join((key.encode(), b"\t", event.wide_payload() if is_wide else event.payload, b"\n"))
                    for key, event in zip(keys, map(batch.whole, positions), strict=True)
                )
                if events[-1].payload and all(event.payload for event in events):
                    rows = list(rows)
                quarters = {int(at.timestamp()) // _QUARTER_SECONDS for at in times}
            copy_rows = "events/ingest/copy_wide_usage_events" if is_wide else "events/ingest/copy_usage_events"
            with cursor.copy(load(copy_rows)) as copy:
                _write(copy, rows)
            moments = [datetime.fromtimestamp(quarter * _QUARTER_SECONDS, UTC) for quarter in quarters]
            touched = {"moments": moments, "timezone": settings.usage_timezone}
            with connection.pipeline():
                cursor.execute("select ops.expect_time_zone(%s)", (settings.usage_timezone,))
                cursor.execute(load("events/ingest/insert_touched_windows"), touched)
                _insert_report(cursor, batch, report)
    except (psycopg.errors.UniqueViolation, psycopg.errors.CheckViolation, psycopg.errors.UndefinedTable):
        return None
    return report


def _store_any(connection: psycopg.Connection, batch: _Batch, settings: Settings) -> IngestReport:
    kind, parsed = batch.kind, batch.parsed
    connection.execute(load(kind.stage))
    if kind is EVENTS:
        moments = {item.event_time for item in parsed.values() if item.event_time is not None}
        ensure_chunks(connection, kind.table, moments, settings.chunk_time_interval_hours)
    with connection.transaction(), connection.cursor() as cursor:
        cursor.execute("select ops.expect_time_zone(%s)", (settings.usage_timezone,))
        _stage(cursor, batch)
        if kind is ARCHIVES:
            hours = {hour for (hour,) in cursor.execute(load("events/ingest/select_archive_hours"))}
            ensure_chunks(connection, kind.table, hours, settings.chunk_time_interval_hours)
        binding_id = None if batch.binding is None else batch.binding.binding_id
        arguments = {"timezone": settings.usage_timezone, "binding_id": binding_id}
        [(stored,)] = cursor.execute(load(kind.insert), arguments).fetchall()
        if batch.binding is not None:
            _expect_own_ids(cursor, batch, batch.binding, stored)
        unstored = (
            cursor.execute(load(kind.select_unstored), {"stored": stored}).fetchall()
            if len(stored) < len(parsed)
            else []
        )
        unknown = [batch.of_unknown_event(position) for position, _, _, is_known in unstored if not is_known]
        # A row of a conflict has the whole item: made when it is stored, one after the other.
        conflicting = [
            (position, stored_hash, other_hash)
            for position, other_hash, stored_hash, _ in unstored
            # An erased item has no hash, and its id stays: whatever comes again with it is a duplicate.
            if stored_hash is not None and stored_hash != other_hash
        ]
        conflicts = (
            {
                "kind": kind.name,
                "event_id": parsed[position].event_id,
                "stored_hash": stored_hash,
                "other_hash": other_hash,
                "other_payload": batch.kept_payload(position),
                "batch_id": batch.batch_id,
            }
            for position, stored_hash, other_hash in conflicting
        )
        if conflicting:
            cursor.executemany(load("events/ingest/insert_event_conflict"), conflicts)
        report = batch.report(
            inserted=len(stored),
            duplicates=len(unstored) - len(unknown) - len(conflicting),
            conflicts=len(conflicting),
            rejected=(*batch.rejected, *unknown),
        )
        _insert_report(cursor, batch, report)
    return report


def _expect_own_ids(cursor: psycopg.Cursor, batch: _Batch, binding: Binding, stored: Sequence[int]) -> None:
    """Raises _TakenByOthers. After the insert, so that it sees whatever came before it."""
    # An event that was stored has an id that was free; an archive was stored with whatever event has its id.
    wanted = [position for position in batch.parsed if position not in batch.apart]
    if batch.kind is EVENTS:
        wanted = sorted({*wanted} - {*stored})
    if not wanted:
        return
    query = "select_foreign_events" if batch.kind is EVENTS else "select_foreign_archives"
    found = cursor.execute(load(f"events/ingest/{query}"), {**binding.arguments, "positions": wanted}).fetchall()
    if found:
        raise _TakenByOthers([position for (position,) in found])


def note_reports(connection: psycopg.Connection, kind: Kind, source: str, reports: Sequence[IngestReport]) -> None:
    """Writes the ledger rows of batches that were stored before, in one transaction. Raises psycopg.Error."""
    with connection.transaction(), connection.cursor() as cursor:
        rows = [_ledger_row(kind, source, report) for report in reports]
        cursor.executemany(load("events/ingest/insert_ingest_batch"), rows)


def _ledger_row(kind: Kind, source: str, report: IngestReport) -> dict[str, object]:
    return {
        "batch_id": report.batch_id,
        "kind": kind.name,
        "source": source,
        "received": report.received,
        "inserted": report.inserted,
        "duplicates": report.duplicates,
        "conflicts": report.conflicts,
        "rejected": len(report.rejected),
    }


def _insert_report(cursor: psycopg.Cursor, batch: _Batch, report: IngestReport) -> None:
    cursor.execute(load("events/ingest/insert_ingest_batch"), _ledger_row(batch.kind, batch.source, report))
    if batch.letters is not None and report.rejected:
        cursor.executemany(
            load("events/ingest/insert_item_dead_letter"), _letters(batch, batch.letters, report.rejected)
        )


def _letters(batch: _Batch, letters: LetterBox, rejected: Sequence[Rejection]) -> Iterator[dict[str, object]]:
    for rejection in rejected:
        raws: Items = batch.items if letters.raws is None else letters.raws
        raw, reason = raws[rejection.index], rejection.reason
        if len(raw) > batch.kind.most_item_bytes:
            # It cannot be stored ever, so nobody needs the rest to mend it.
            raw = raw[:_KEPT_OF_TOO_LARGE]
            reason = f"{reason}; only the first {_KEPT_OF_TOO_LARGE} bytes are kept"
        yield {
            "family": batch.kind.dead_letter_family,
            "source_key": letters.source_key,
            "position": letters.positions[rejection.index],
            "reason": reason,
            "raw": bytes(raw),
            "read_at": batch.read_at,
        }


def _stage(cursor: psycopg.Cursor, batch: _Batch) -> None:
    copy_to = compose.SQL("copy {} from stdin").format(compose.Identifier(batch.kind.staging_table))
    with cursor.copy(copy_to) as copy:
        _write(copy, (piece for position in batch.parsed for piece in batch.whole(position).staged(position)))


def _write(copy: psycopg.Copy, lines: Iterable[bytes | memoryview]) -> None:
    part: list[bytes | memoryview] = []
    size = 0
    for line in lines:
        part.append(line)
        size += len(line)
        if len(part) >= _LINES_PER_WRITE or size >= _BYTES_PER_WRITE:
            copy.write(b"".join(part))
            part.clear()
            size = 0
    copy.write(b"".join(part))
