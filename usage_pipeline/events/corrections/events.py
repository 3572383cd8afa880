"""Takes usage events out, or replaces them, by name and with a reason (contracts §8.3). The command and HTTP use one function.

PostgreSQL does each correction and its note in one step (`ops.correct_event`), with the rights of the owner.
"""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Literal
from uuid import UUID

import msgspec
import psycopg
from msgspec import structs
from psycopg import sql as compose

from usage_pipeline import values
from usage_pipeline.bindings import Binding
from usage_pipeline.events.ingest.batches import ARCHIVES, EVENTS, known_ids
from usage_pipeline.events.ingest.bound import BoundSender
from usage_pipeline.events.ingest.members import identity
from usage_pipeline.events.ingest.model import LANDING, EventWindow, Item
from usage_pipeline.settings import Settings
from usage_pipeline.storage.chunks.partitions import ensure_chunks
from usage_pipeline.storage.sql import composed, load
from usage_pipeline.values import Malformed

MAX_REASON_CHARACTERS = 1_000
# What ops.correct_bound_event takes beside what ops.correct_event does.
_BINDING = ", %(binding_id)s, %(teams)s, %(services)s, %(users)s"
# Corrections of one transaction.
_AT_ONCE = 100
# What is parsed of an event may have twice its bytes.
_BYTES_AT_ONCE = 16 * 2**20
# A partition may be archived between our look and our insert. Then the corrections are made again, with a new partition.
_ATTEMPTS = 3
# The roll-up of a day that is corrected comes later, and must still find all of its events.
_BEFORE_THE_END = timedelta(days=1)

Outcome = Literal["corrected", "already", "refused"]


@dataclass(frozen=True, slots=True)
class Wanted:
    """A correction that somebody asks for. `event` is the JSON that replaces what is stored; None takes the event out.

    `event_id` may be None if there is an event, which has it. `is_kept_out`: it was kept out under `event_id`, where that of a
    bound sender belongs.
    """

    reason: str
    event_id: UUID | None = None
    event: bytes | memoryview | msgspec.Raw | None = None
    is_kept_out: bool = False


@dataclass(frozen=True, slots=True)
class Corrected:
    """The outcome of one correction. `refusal` says why nothing changed; empty unless it was refused."""

    event_id: UUID | None
    outcome: Outcome
    refusal: str = ""


class _Known(msgspec.Struct):
    event_id: str
    source: str | None = None


def event_id_of(text: str, source: str | None = None) -> UUID:
    """The id of an event as it is stored, by the rule of the ingest: an id that is no UUID needs the source that gave it.

    Raises Malformed.
    """
    if source is not None:
        values.identifier_text("source", source)
    known = identity(text, source, "")
    if known.external_id is not None and source is None:
        raise Malformed(
            f"event_id: expected a UUID, or another id and the source that gave it, came {text[:200]!r} without a source"
        )
    return known.event_id


def expect_reason(reason: str) -> str:
    """The reason without space around it. Raises Malformed for none, or one that is too long."""
    stripped = reason.strip()
    if not stripped or len(stripped) > MAX_REASON_CHARACTERS or "\0" in stripped:
        raise Malformed(f"reason: expected 1 to {MAX_REASON_CHARACTERS} characters, came {len(stripped)}")
    return stripped


def correct(
    connection: psycopg.Connection,
    wanted: Sequence[Wanted],
    *,
    corrected_by: str,
    settings: Settings,
    sender: str | None = None,
    now: datetime | None = None,
    deadline: float = math.inf,
    binding: Binding | None = None,
) -> list[Corrected]:
    """Makes corrections on an autocommit connection, and returns their outcomes in the same order. All of them are committed.

    Each is made with its note in ops.corrections, or not at all; one that is refused keeps no other from being made. The same
    again changes nothing, and its outcome is "already". `sender` gives the ids that are no UUIDs, where an event names no
    source; without one, such an event is refused. With a `binding` an event that it may not see is like one that is not stored,
    and none gets out of it. Hours and days that change are made again by whoever makes roll-ups.
    Raises psycopg.Error when PostgreSQL fails, and TimeoutError after the deadline, a time of `time.monotonic`: then those of
    earlier transactions stay made.
    """
    now = now or datetime.now(UTC)
    outcomes = list[Corrected]()
    for some in _portions(wanted):
        if time.monotonic() > deadline:
            raise TimeoutError
        outcomes += _correct_some(connection, some, corrected_by, settings, sender, now, binding)
    return outcomes


def _portions(wanted: Sequence[Wanted]) -> Iterator[Sequence[Wanted]]:
    """What is corrected in one transaction: few at once, and of large ones fewer."""
    first = size = 0
    for number, one in enumerate(wanted):
        more = 0 if one.event is None else memoryview(one.event).nbytes
        if number - first == _AT_ONCE or (number > first and size + more > _BYTES_AT_ONCE):
            yield wanted[first:number]
            first = number
            size = 0
        size += more
    if first < len(wanted):
        yield wanted[first:]


@dataclass(frozen=True, slots=True)
class _Step:
    """A correction that can be tried: its place among the wanted ones, and the event, if there is one."""

    position: int
    event_id: UUID
    reason: str
    item: Item | None


def _correct_some(
    connection: psycopg.Connection,
    wanted: Sequence[Wanted],
    corrected_by: str,
    settings: Settings,
    sender: str | None,
    now: datetime,
    binding: Binding | None,
) -> list[Corrected]:
    outcomes: dict[int, Corrected] = {}
    steps = list[_Step]()
    window = EventWindow.around(now, settings)
    bound = None if binding is None else EVENTS.bound_to(binding)
    for position, one in enumerate(wanted):
        try:
            steps.append(_step(position, one, window, sender, bound))
        except Malformed as malformed:
            outcomes[position] = Corrected(one.event_id, "refused", str(malformed))
    if binding is not None:
        steps = _with_own_ids(connection, steps, binding)
    # In the order of ids, as ingest stores them: so of two with common ids one waits, and there is no deadlock.
    steps.sort(key=lambda step: (step.event_id.int, step.position))
    tables = [EVENTS.table]
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            outcomes |= _try(connection, steps, corrected_by, settings, now, tables, binding)
            break
        except (psycopg.errors.CheckViolation, psycopg.errors.UndefinedTable):
            if attempt == _ATTEMPTS:
                raise
            tables = [EVENTS.table, ARCHIVES.table]
    return [outcomes[position] for position in range(len(wanted))]


def _with_own_ids(connection: psycopg.Connection, steps: Sequence[_Step], binding: Binding) -> list[_Step]:
    """Of an event that the ingest kept apart, the id that it has."""
    own = {step.position: binding.own_id(step.event_id) for step in steps}
    known = known_ids(connection, binding, own.values())
    return [_under(step, own[step.position]) if own[step.position] in known else step for step in steps]


def _under(step: _Step, event_id: UUID) -> _Step:
    return replace(step, event_id=event_id, item=step.item and structs.replace(step.item, event_id=event_id))


def _step(position: int, wanted: Wanted, window: EventWindow, sender: str | None, bound: BoundSender | None) -> _Step:
    reason = expect_reason(wanted.reason)
    if wanted.event is None:
        if wanted.event_id is None:
            raise Malformed("event_id: expected the id of the event to take out, came none")
        return _Step(position, wanted.event_id, reason, None)
    event = wanted.event if bound is None else bound.filled(wanted.event)
    item = EVENTS.parse(event, window, LANDING if sender is None else sender)
    if bound is not None:
        bound.expect_own(item)
    if sender is None:
        # Of all who may have given the id, nobody is the usual one.
        known = msgspec.json.decode(event, type=_Known)
        event_id_of(known.event_id, known.source or None)
    if wanted.is_kept_out and wanted.event_id is not None:
        item = structs.replace(item, event_id=wanted.event_id)
    if wanted.event_id not in (None, item.event_id):
        raise Malformed(f"event_id: expected the same one in the event, {wanted.event_id}, came {item.event_id}")
    return _Step(position, item.event_id, reason, item)


def _try(
    connection: psycopg.Connection,
    steps: Sequence[_Step],
    corrected_by: str,
    settings: Settings,
    now: datetime,
    tables: Sequence[str],
    binding: Binding | None,
) -> dict[int, Corrected]:
    oldest, oldest_by = max(
        (now - timedelta(days=settings.retention_days) + _BEFORE_THE_END, f"RETENTION_DAYS={settings.retention_days}"),
        (settings.usage_start, f"USAGE_START_DATE={settings.usage_start_date}"),
    )
    common: dict[str, object] = {"corrected_by": corrected_by, "oldest": oldest, "oldest_by": oldest_by}
    common |= {} if binding is None else binding.arguments
    moments = {step.item.event_time for step in steps if step.item and step.item.event_time}
    for table in tables:
        ensure_chunks(connection, table, moments, settings.chunk_time_interval_hours)
    connection.execute(load(EVENTS.stage))
    outcomes: dict[int, Corrected] = {}
    with connection.transaction(), connection.cursor() as cursor:
        cursor.execute("select ops.expect_time_zone(%s)", (settings.usage_timezone,))
        copy_to = compose.SQL("copy {} from stdin").format(compose.Identifier(EVENTS.staging_table))
        with cursor.copy(copy_to) as copy:
            for piece in _lines(steps):
                copy.write(piece)
        for step in steps:
            arguments = {**common, "event_id": step.event_id, "position": step.position, "reason": step.reason}
            action = "void" if step.item is None else "replace"
            function = "correct_event" if binding is None else "correct_bound_event"
            query = composed(
                f"events/corrections/{action}_event",
                correct=compose.Identifier("ops", function),
                binding=compose.SQL("" if binding is None else _BINDING),
            )
            [(outcome, refusal)] = cursor.execute(query, arguments).fetchall()
            outcomes[step.position] = Corrected(step.event_id, outcome, refusal or "")
    return outcomes


def _lines(steps: Sequence[_Step]) -> Iterator[bytes | memoryview]:
    return (piece for step in steps if step.item for piece in step.item.staged(step.position))
