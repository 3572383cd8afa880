"""Lists dead letters, and replays them on the path of a drain. A dead letter counts once, however often it is replayed."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType

import psycopg
from psycopg.rows import class_row

from usage_pipeline.drain.batch import Batch, Origin, RawFormat, parse_batch, raw_value
from usage_pipeline.drain.event_queue import EVENT, parse_page
from usage_pipeline.drain.families import BY_NAME
from usage_pipeline.drain.store import Applied, UsageStore
from usage_pipeline.storage.sql import load

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


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """The result of replaying one dead letter: it is counted now, or it is still refused, and why."""

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
    retention_days: int,
    ids: Sequence[int] = (),
    families: Sequence[str] = (),
    others: Mapping[str, Replay] = MappingProxyType({}),
) -> Iterator[ReplayResult]:
    """Replays open dead letters, each in a transaction of its own. Each counts for the day to which it belonged when claimed.

    `others` replays families that do not come from Redis. A dead letter that is refused again stays open. Its batch id is
    made from its number, so the ledger lets it count only once.
    """
    after = 0
    while page := list_dead_letters(connection, ids=ids, families=families, after=after, with_raw=False):
        for listed in page:
            # Raw values are read one at a time: those of a whole page may not fit into memory.
            for letter in list_dead_letters(connection, ids=[listed.dead_letter_id], with_replayed=True):
                other = others.get(letter.family)
                yield other(connection, letter) if other else _replay_one(connection, store, letter, retention_days)
        after = page[-1].dead_letter_id


def _replay_one(
    connection: psycopg.Connection, store: UsageStore, letter: StoredDeadLetter, retention_days: int
) -> ReplayResult:
    if letter.family == "merchant":
        return ReplayResult(letter.dead_letter_id, letter.family, False, _REREAD)
    batch = _batch_of(letter, retention_days)
    if batch.dead_letters:
        return ReplayResult(letter.dead_letter_id, letter.family, False, batch.dead_letters[0].reason)
    with connection.transaction() as transaction:
        if letter.family == EVENT.name:
            applied = store.apply_events(batch, {letter.position or 0: letter.raw})
        else:
            applied = store.apply(BY_NAME[letter.family], batch)
        if applied.dead_letters:
            # What is stored refuses it (a total over bigint, a conflicting event). The dead letter stays as it is.
            raise psycopg.Rollback(transaction)
        store.mark_released([batch.batch_id])
        connection.execute(
            "update ops.dead_letters set replayed_at = clock_timestamp() where dead_letter_id = %s",
            (letter.dead_letter_id,),
        )
    return _result(letter, applied)


def _batch_of(letter: StoredDeadLetter, retention_days: int) -> Batch:
    claimed_ms = round(letter.claimed_at.timestamp() * 1000)
    batch_id = f"{claimed_ms:013d}-replay-{letter.dead_letter_id}"
    origin = Origin(batch_id, letter.claimed_at, "replay", is_uncertain=False)
    if letter.family == EVENT.name and letter.raw_format == "string":
        first = letter.position or 0
        return parse_page(origin, first, [letter.raw], retention_days=retention_days)
    claims = [(letter.source_key, raw_value(letter.raw, letter.raw_format))]
    family = BY_NAME.get(letter.family, EVENT)
    return parse_batch(family, origin, claims, retention_days=retention_days)


def _result(letter: StoredDeadLetter, applied: Applied) -> ReplayResult:
    if applied.dead_letters:
        return ReplayResult(letter.dead_letter_id, letter.family, False, letter.reason)
    return ReplayResult(letter.dead_letter_id, letter.family, True, "")
