"""Decides about items that were kept out because their id was stored with other content (ops.event_conflicts)."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

import psycopg
from msgspec import structs
from psycopg import sql as compose
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from usage_pipeline.events.corrections.events import Wanted, correct, expect_reason
from usage_pipeline.events.ingest.batches import ARCHIVES, EVENTS
from usage_pipeline.events.ingest.model import LANDING, EventWindow
from usage_pipeline.settings import Settings
from usage_pipeline.storage.sql import load
from usage_pipeline.values import Malformed

Decision = Literal["accepted", "dismissed"]
_MOST = 10_000


@dataclass(frozen=True, slots=True)
class Conflict:
    """A row of ops.event_conflicts. `other_payload` is the JSON that was kept out; `outcome` is None while it is open."""

    event_conflict_id: int
    kind: Literal["events", "archives"]
    event_id: UUID
    other_payload: bytes
    times: int
    detected_at: datetime
    last_seen_at: datetime
    decided_at: datetime | None
    outcome: Decision | None


@dataclass(frozen=True, slots=True)
class Difference:
    """What its client calls the event of a conflict, and the members in which the two differ.

    `differs` is None if what was stored is not in its table any more. `unreadable` says why what was kept out cannot be read.
    """

    source: str | None = None
    external_id: str | None = None
    differs: list[str] | None = None
    unreadable: str = ""

    @property
    def said(self) -> str:
        if self.unreadable:
            return f"what came cannot be read: {self.unreadable}"
        return "what was stored is archived, or was taken out" if self.differs is None else ", ".join(self.differs)


@dataclass(frozen=True, slots=True)
class Decided:
    """What became of one decision. `refusal` says why the conflict stays as it is."""

    event_conflict_id: int
    outcome: Literal["accepted", "dismissed", "already", "refused"]
    refusal: str = ""


def list_conflicts(
    connection: psycopg.Connection, *, ids: Sequence[int] = (), with_decided: bool = False, limit: int = _MOST
) -> list[Conflict]:
    """Open conflicts, oldest first. `with_decided`: also those that somebody decided about. With `ids`, those alone."""
    arguments = {"ids": list(ids), "with_decided": with_decided, "limit": limit}
    with connection.cursor(row_factory=class_row(Conflict)) as cursor:
        return cursor.execute(load("events/corrections/select_conflicts"), arguments).fetchall()


def differences(
    connection: psycopg.Connection, conflicts: Sequence[Conflict], settings: Settings
) -> dict[int, Difference]:
    """What was kept out, read as the ingest reads it, against what is stored now; by the number of the conflict."""
    found: dict[int, Difference] = {}
    for kind, query in (
        (EVENTS, "events/corrections/select_event_differences"),
        (ARCHIVES, "events/corrections/select_archive_differences"),
    ):
        connection.execute(load(kind.stage))
        copy_to = compose.SQL("copy {} from stdin").format(compose.Identifier(kind.staging_table))
        # Each for itself: an event may have 25 MB.
        for conflict in (one for one in conflicts if one.kind == kind.name):
            try:
                # An old event is still read.
                found_item = kind.parse(
                    conflict.other_payload, EventWindow.around(conflict.detected_at, settings), LANDING
                )
            except Malformed as malformed:
                found[conflict.event_conflict_id] = Difference(unreadable=str(malformed))
                continue
            # Of a bound sender: the id that it sent may be that of somebody else's event.
            item = structs.replace(found_item, event_id=conflict.event_id)
            with connection.transaction(), connection.cursor() as cursor:
                with cursor.copy(copy_to) as copy:
                    for piece in item.staged(0):
                        copy.write(piece)
                [(_, source, external_id, differs)] = cursor.execute(load(query)).fetchall()
            found[conflict.event_conflict_id] = Difference(source, external_id, differs)
    return found


def decide(
    connection: psycopg.Connection,
    ids: Sequence[int],
    decision: Decision,
    *,
    reason: str,
    decided_by: str,
    settings: Settings,
) -> list[Decided]:
    """Accepts conflicts, so that what was kept out replaces what is stored, or dismisses them. On an autocommit connection.

    Of several for one event, the one that comes last stays. The same decision again changes nothing. Raises Malformed without a
    reason, and psycopg.Error; decisions that were made before stay made.
    """
    reason = expect_reason(reason)
    found = {each.event_conflict_id: each for each in list_conflicts(connection, ids=ids, with_decided=True)}
    decided = list[Decided]()
    for number in ids:
        conflict = found.get(number)
        arguments = {"corrected_by": decided_by, "reason": reason}
        if conflict is None:
            decided.append(Decided(number, "refused", f"no conflict has the number {number}"))
        elif conflict.outcome is not None:
            other = f"expected an open conflict, came one that is {conflict.outcome}"
            is_same = conflict.outcome == decision
            decided.append(Decided(number, "already") if is_same else Decided(number, "refused", other))
        elif decision == "dismissed":
            decided.append(_dismiss(connection, conflict, arguments))
        else:
            decided.append(_accept(connection, conflict, arguments, settings))
    return decided


def _dismiss(connection: psycopg.Connection, conflict: Conflict, arguments: dict[str, str]) -> Decided:
    with connection.transaction():
        if not _note(connection, conflict, "dismissed", arguments):
            return Decided(conflict.event_conflict_id, "already")
        correction = {
            **arguments,
            "subject": f"conflict {conflict.event_conflict_id}",
            "before": Jsonb({}),
            "after": Jsonb({"outcome": "dismissed", "event_id": str(conflict.event_id)}),
        }
        connection.execute(load("drain/insert_correction"), correction)
    return Decided(conflict.event_conflict_id, "dismissed")


def _accept(
    connection: psycopg.Connection, conflict: Conflict, arguments: dict[str, str], settings: Settings
) -> Decided:
    number = conflict.event_conflict_id
    if conflict.kind == "archives":
        what = "expected a conflict of events, came one of a message archive: the first text stays, and no number depends on it"
        return Decided(number, "refused", f"{what}; `usage-pipeline conflicts dismiss {number}` ends it")
    wanted = Wanted(arguments["reason"], conflict.event_id, conflict.other_payload, is_kept_out=True)
    [corrected] = correct(connection, [wanted], corrected_by=arguments["corrected_by"], settings=settings)
    if corrected.outcome == "refused":
        return Decided(number, "refused", corrected.refusal)
    # Usually it is noted with the correction. Not if what was kept out was stored before, or is read in another way now.
    _note(connection, conflict, "accepted", arguments)
    return Decided(number, "accepted")


def _note(connection: psycopg.Connection, conflict: Conflict, outcome: Decision, arguments: dict[str, str]) -> bool:
    decision = {**arguments, "outcome": outcome, "event_conflict_id": conflict.event_conflict_id}
    return connection.execute(load("events/corrections/decide_conflict"), decision).rowcount > 0
