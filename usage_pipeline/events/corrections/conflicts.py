"""Decides about items that were kept out because their id was stored with other content (ops.event_conflicts)."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

import psycopg
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from usage_pipeline.events.corrections.events import Wanted, correct, expect_reason
from usage_pipeline.settings import Settings
from usage_pipeline.storage.sql import load

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
            decided.append(Decided(number, "refused", f"expected the number of a conflict, came {number}"))
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
    wanted = Wanted(arguments["reason"], conflict.event_id, conflict.other_payload)
    [corrected] = correct(connection, [wanted], corrected_by=arguments["corrected_by"], settings=settings)
    if corrected.outcome == "refused":
        return Decided(number, "refused", corrected.refusal)
    # Usually it is noted with the correction. Not if what was kept out was stored before, or is read in another way now.
    _note(connection, conflict, "accepted", arguments)
    return Decided(number, "accepted")


def _note(connection: psycopg.Connection, conflict: Conflict, outcome: Decision, arguments: dict[str, str]) -> bool:
    decision = {**arguments, "outcome": outcome, "event_conflict_id": conflict.event_conflict_id}
    return connection.execute(load("events/corrections/decide_conflict"), decision).rowcount > 0
