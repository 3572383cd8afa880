"""Lists dead letters, and replays them on the path of a drain. A dead letter counts once, however often it is replayed."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from types import MappingProxyType

import psycopg
from psycopg.rows import class_row

from usage_pipeline.drain.batch import Batch, Origin, RawFormat, parse_batch, raw_value
from usage_pipeline.drain.corrections import Changed, Correction, change, is_noted, note
from usage_pipeline.drain.event_queue import EVENT, EVENT_MEMBERS, parse_amendment, parse_page
from usage_pipeline.drain.families import BY_NAME
from usage_pipeline.drain.store import UsageStore
from usage_pipeline.storage.sql import load
from usage_pipeline.values import Malformed, PossibleTimes

_PAGE = 500
_REREAD = "merchant counters are not replayed: each aggregation reads them again, and clears this when they are right"


@dataclass(frozen=True, slots=True)
class StoredDeadLetter:
    """A row of ops.dead_letters."""

    dead_letter_id: int
    family: str
    batch_id: str | None
    source_key: bytes
    position: int | None
    reason: str
    raw: bytes
    raw_format: RawFormat
    claimed_at: datetime
    created_at: datetime
    replayed_at: datetime | None
    member: str | None = None


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """The result of replaying one dead letter: it is counted now, or it is still refused, and why.

    `reason` of a counted one says which of its members are in dead letters of their own now.
    """

    dead_letter_id: int
    family: str
    is_counted: bool
    reason: str


# Replays a dead letter of a family that does not come from Redis.
Replay = Callable[[psycopg.Connection, StoredDeadLetter], ReplayResult]


def list_dead_letters(
    connection: psycopg.Connection,
    *,
    ids: Sequence[int] = (),
    families: Sequence[str] = (),
    with_replayed: bool = False,
    after: int = 0,
    limit: int = _PAGE,
    with_raw: bool = True,
) -> list[StoredDeadLetter]:
    """Dead letters in the order of their numbers. The first one is the next after number `after`.

    A raw value may have 512 MB. Without `with_raw`, all raw values are empty.
    """
    arguments = {
        "ids": list(ids),
        "families": list(families),
        "with_replayed": with_replayed,
        "after": after,
        "limit": limit,
        "with_raw": with_raw,
    }
    # Binary: in text form, bytes are twice as long, and PostgreSQL sends no row of 1 GB.
    with connection.cursor(row_factory=class_row(StoredDeadLetter), binary=True) as cursor:
        return cursor.execute(load("drain/select_dead_letters"), arguments).fetchall()


def replay(
    connection: psycopg.Connection,
    store: UsageStore,
    *,
    times: PossibleTimes,
    ids: Sequence[int] = (),
    families: Sequence[str] = (),
    others: Mapping[str, Replay] = MappingProxyType({}),
    correction: Correction | None = None,
) -> Iterator[ReplayResult]:
    """Replays open dead letters, each in a transaction of its own. Each counts for the day to which it belonged when claimed.

    `others` replays families that do not come from Redis. A `correction` sets members before; it is kept if the dead letter
    counts then, and refused if the dead letter counts already without it. A dead letter that is refused again stays open. Of
    one about a whole key, the members that are right count, and each of the others gets a dead letter of its own. The batch id
    of a replay is made from the number of its dead letter, so the ledger lets it count only once.
    """
    after = 0
    # Whoever sets a member must hear of a dead letter that counts already with other values.
    with_replayed = correction is not None
    while page := list_dead_letters(
        connection, ids=ids, families=families, with_replayed=with_replayed, after=after, with_raw=False
    ):
        for listed in page:
            # Raw values are read one at a time: those of a whole page may not fit into memory.
            for letter in list_dead_letters(connection, ids=[listed.dead_letter_id], with_replayed=True):
                yield _replay_one(connection, store, letter, times, others.get(letter.family), correction)
        after = page[-1].dead_letter_id


class _RefusedAgain(Exception):
    """A dead letter that cannot count now. The transaction is rolled back; the dead letter stays as it is."""


def _replay_one(
    connection: psycopg.Connection,
    store: UsageStore,
    letter: StoredDeadLetter,
    times: PossibleTimes,
    other: Replay | None,
    correction: Correction | None,
) -> ReplayResult:
    try:
        if letter.family == "merchant":
            raise _RefusedAgain(_REREAD)
        changed = _changed(letter, correction)
        with connection.transaction():
            # Whoever comes second finds that it counts already, and notes no correction.
            if connection.execute(load("drain/lock_open_dead_letter"), (letter.dead_letter_id,)).fetchone() is None:
                if correction is not None and not is_noted(connection, _subject(letter), correction):
                    raise _RefusedAgain("it counts already, without what --set says, and counts only once")
                return ReplayResult(letter.dead_letter_id, letter.family, True, "")
            rest = _count(connection, store, replace(letter, raw=changed.raw), times, other)
            if correction is not None:
                note(connection, _subject(letter), changed, correction)
    except (_RefusedAgain, Malformed) as refused:
        return ReplayResult(letter.dead_letter_id, letter.family, False, str(refused))
    return ReplayResult(letter.dead_letter_id, letter.family, True, rest)


def _subject(letter: StoredDeadLetter) -> str:
    return f"dead letter {letter.dead_letter_id}"


def _changed(letter: StoredDeadLetter, correction: Correction | None) -> Changed:
    if correction is None:
        return Changed(letter.raw, {})
    known = EVENT_MEMBERS if letter.family == EVENT.name else frozenset[str]()
    known = BY_NAME[letter.family].members if letter.family in BY_NAME else known
    return change(letter.raw, letter.raw_format, letter.member, known, correction.members)


def _count(
    connection: psycopg.Connection,
    store: UsageStore,
    letter: StoredDeadLetter,
    times: PossibleTimes,
    other: Replay | None,
) -> str:
    """Counts a dead letter; what of it is refused again is in dead letters of its own, and the text says so.

    Raises _RefusedAgain or Malformed.
    """
    if other is not None:
        result = other(connection, letter)
        if not result.is_counted:
            raise _RefusedAgain(result.reason)
        return result.reason
    if letter.family == EVENT.name and letter.member is not None:
        days = _amend(store, letter, times)
        if not days:
            raise _RefusedAgain(
                "event_id: expected the event in its partition, but that is archived (`usage-pipeline archive restore` reads "
                "its day back), or dropped: then the event stays as it was counted"
            )
        rest = ""
    else:
        rest = _apply(store, letter, times)
    connection.execute(
        "update ops.dead_letters set replayed_at = clock_timestamp() where dead_letter_id = %s",
        (letter.dead_letter_id,),
    )
    return rest


def _apply(store: UsageStore, letter: StoredDeadLetter, times: PossibleTimes) -> str:
    batch = _batch_of(letter, times)
    reasons = "; ".join(refused.reason for refused in batch.dead_letters)
    if not batch.lines or (letter.member is not None and batch.dead_letters):
        raise _RefusedAgain(reasons)
    if letter.family == EVENT.name:
        applied = store.apply_events(batch, {letter.position or 0: letter.raw})
    else:
        applied = store.apply(BY_NAME[letter.family], batch)
    if applied.dead_letters > applied.refused_members:
        # What is stored refuses it (a total over bigint, a conflicting event). The dead letter stays as it is.
        raise _RefusedAgain(letter.reason)
    store.mark_released([batch.batch_id])
    return f"counted, without what is in a dead letter of its own now: {reasons}" if applied.refused_members else ""


def _amend(store: UsageStore, letter: StoredDeadLetter, times: PossibleTimes) -> Sequence[date]:
    claimed_ms = round(letter.claimed_at.timestamp() * 1000)
    amendment = parse_amendment(letter.raw, times.window(claimed_ms))
    return store.amend_event(amendment.event_id, at=amendment.at, extra=amendment.extra, claimed_at=letter.claimed_at)


def _batch_of(letter: StoredDeadLetter, times: PossibleTimes) -> Batch:
    claimed_ms = round(letter.claimed_at.timestamp() * 1000)
    batch_id = f"{claimed_ms:013d}-replay-{letter.dead_letter_id}"
    origin = Origin(batch_id, letter.claimed_at, "replay", is_uncertain=False)
    if letter.family == EVENT.name and letter.raw_format == "string":
        return parse_page(origin, letter.position or 0, [letter.raw], times=times)
    claims = [(letter.source_key, raw_value(letter.raw, letter.raw_format))]
    return parse_batch(BY_NAME.get(letter.family, EVENT), origin, claims, times=times)
