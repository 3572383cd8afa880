"""Lists dead letters, and replays them on the path of a drain. A dead letter counts once, however often it is replayed."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from types import MappingProxyType
from typing import Literal

import psycopg
from psycopg.rows import class_row

from usage_pipeline.drain.batch import Batch, Claimed, Origin, Page, Part, RawFormat, parse_batch, raw_value
from usage_pipeline.drain.corrections import ANY, Changed, Correction, Settable, change, is_noted, note
from usage_pipeline.drain.event_queue import EVENT, RequestEvent, parse_amendment, parse_page
from usage_pipeline.drain.families import BY_NAME
from usage_pipeline.drain.store import UsageStore
from usage_pipeline.storage.sql import load
from usage_pipeline.values import Malformed, PossibleTimes

_PAGE = 500
_LARGEST_NUMBER = 2**63 - 1
_REREAD = (
    "merchant counters are not replayed: each aggregation reads them again, and clears this when they are right. "
    "`usage-pipeline dead-letters show` says what else can be done"
)
_QUEUE_ITEM = Settable.of(RequestEvent)


@dataclass(frozen=True, slots=True)
class StoredDeadLetter:
    """A row of ops.dead_letters; `raw` may be left out, `raw_bytes` is its size."""

    dead_letter_id: int
    family: str
    batch_id: str | None
    source_key: bytes
    position: int | None
    reason: str
    raw: bytes
    raw_bytes: int
    raw_format: RawFormat
    claimed_at: datetime
    created_at: datetime
    replayed_at: datetime | None
    member: str | None = None
    attempts: int = 0
    tried_at: datetime | None = None
    discarded_at: datetime | None = None
    discarded_by: str | None = None
    discard_reason: str | None = None

    @property
    def state(self) -> Literal["open", "discarded", "counted"]:
        """`counted` also if it was discarded before."""
        if self.replayed_at is not None:
            return "counted"
        return "open" if self.discarded_at is None else "discarded"


@dataclass(frozen=True, slots=True)
class Choice:
    """Which dead letters: by number, by ranges of numbers (both ends included), by family, by source. Empty: all of them.

    `ids` are named one by one: they are meant whatever became of them, while all others are open ones. `source` is the key in
    Redis, or the landed file.
    """

    ids: Sequence[int] = ()
    ranges: Sequence[tuple[int, int]] = ()
    families: Sequence[str] = ()
    source: bytes | None = None

    @property
    def is_named(self) -> bool:
        """Whether each dead letter is named by its own number."""
        return bool(self.ids) and not self.ranges

    @property
    def spans(self) -> list[tuple[int, int]]:
        """Its numbers as ranges in order, none of which overlaps another."""
        if not self.ids and not self.ranges:
            return [(1, _LARGEST_NUMBER)]
        spans: list[tuple[int, int]] = []
        for first, last in sorted([*((number, number) for number in self.ids), *self.ranges]):
            if spans and first <= spans[-1][1]:
                spans[-1] = (spans[-1][0], max(last, spans[-1][1]))
            else:
                spans.append((first, last))
        return spans


EVERY = Choice()


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """The result of replaying one dead letter: it is counted now, or it is still refused, and why.

    `reason` of a counted one says which of its members are in dead letters of their own now.
    """

    dead_letter_id: int
    family: str
    is_counted: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Other:
    """What to do with dead letters of a family that does not come from Redis.

    `replay` replays one. `expect_readable` raises Malformed if it would be refused whatever is stored. `settable` are members
    that a correction may set.
    """

    replay: Callable[[psycopg.Connection, StoredDeadLetter], ReplayResult]
    expect_readable: Callable[[StoredDeadLetter], None]
    settable: Settable = ANY


NONE: Mapping[str, Other] = MappingProxyType({})


def list_dead_letters(
    connection: psycopg.Connection,
    choice: Choice = EVERY,
    *,
    with_replayed: bool = False,
    with_discarded: bool = False,
    after: int = 0,
    limit: int = _PAGE,
    with_raw: bool = True,
) -> list[StoredDeadLetter]:
    """Dead letters in the order of their numbers: open ones, and those that the choice names. The first one is after `after`.

    A raw value may have 512 MB. Without `with_raw`, all raw values are empty.
    """
    spans = choice.spans
    arguments = {
        "firsts": [first for first, _ in spans],
        "lasts": [last for _, last in spans],
        "ids": list(choice.ids),
        "families": list(choice.families),
        "source": choice.source,
        "with_replayed": with_replayed,
        "with_discarded": with_discarded,
        "after": after,
        "limit": limit,
        "with_raw": with_raw,
    }
    # Binary: in text form, bytes are twice as long, and PostgreSQL sends no row of 1 GB.
    with connection.cursor(row_factory=class_row(StoredDeadLetter), binary=True) as cursor:
        return cursor.execute(load("drain/select_dead_letters"), arguments).fetchall()


def every_one(connection: psycopg.Connection, choice: Choice) -> Iterator[StoredDeadLetter]:
    """All of a choice without their raw values, page by page, as `list_dead_letters`."""
    after = 0
    while page := list_dead_letters(connection, choice, after=after, with_raw=False):
        yield from page
        after = page[-1].dead_letter_id


def whole(connection: psycopg.Connection, number: int) -> StoredDeadLetter | None:
    """One dead letter with its raw value, whatever became of it. Those of a whole page may not fit into memory."""
    return next(iter(list_dead_letters(connection, Choice(ids=[number]))), None)


def replay(
    connection: psycopg.Connection,
    store: UsageStore,
    choice: Choice = EVERY,
    *,
    times: PossibleTimes,
    others: Mapping[str, Other] = NONE,
    correction: Correction | None = None,
) -> Iterator[ReplayResult]:
    """Replays open dead letters, each in a transaction of its own. Each counts for the day to which it belonged when claimed.

    One that was discarded is replayed only if its own number is named. A `correction` sets members before; it is kept if the
    dead letter counts then, and refused if it counts already without it. A dead letter that is refused again stays as it is,
    and the attempt is noted. Of one about a whole key, the members that are right count, and each of the others gets a dead
    letter of its own. The batch id of a replay is made from the number of its dead letter, so the ledger lets it count only
    once.
    """
    for listed in every_one(connection, choice):
        # Whoever sets a member must hear of a dead letter that counts already with other values.
        if listed.state == "counted" and correction is None:
            continue
        letter = whole(connection, listed.dead_letter_id)
        if letter is not None:
            yield _replay_one(connection, store, letter, choice, times, others.get(letter.family), correction)


class _RefusedAgain(Exception):
    """A dead letter that cannot count now. The transaction is rolled back; the dead letter stays as it is."""


class _AsItIs(_RefusedAgain):
    """The same, without an attempt to count it."""


def _replay_one(
    connection: psycopg.Connection,
    store: UsageStore,
    letter: StoredDeadLetter,
    choice: Choice,
    times: PossibleTimes,
    other: Other | None,
    correction: Correction | None,
) -> ReplayResult:
    try:
        if letter.family == "merchant":
            raise _AsItIs(_REREAD)
        changed = _changed(letter, other, correction)
        with connection.transaction():
            # Whoever comes second finds that it counts already, and notes no correction.
            row = connection.execute(load("drain/lock_dead_letter"), (letter.dead_letter_id,)).fetchone()
            if row is None or row[0]:
                if correction is not None and not is_noted(connection, _subject(letter), correction):
                    raise _AsItIs("it counts already, without what --set says, and counts only once")
                return ReplayResult(letter.dead_letter_id, letter.family, True, "")
            if row[1] and letter.dead_letter_id not in choice.ids:
                raise _AsItIs("it was discarded meanwhile: its own number replays it")
            rest = _count(connection, store, replace(letter, raw=changed.raw), times, other)
            if correction is not None:
                note(connection, _subject(letter), changed, correction)
    except (_RefusedAgain, Malformed) as refused:
        if not isinstance(refused, _AsItIs):
            connection.execute(load("drain/note_refused_replay"), (letter.dead_letter_id,))
        return ReplayResult(letter.dead_letter_id, letter.family, False, str(refused))
    return ReplayResult(letter.dead_letter_id, letter.family, True, rest)


def settable(letter: StoredDeadLetter, other: Other | None) -> Settable:
    """The members that a correction of a whole dead letter may set, besides those that it has."""
    if other is not None:
        return other.settable
    if letter.family == EVENT.name:
        return _QUEUE_ITEM
    return Settable(BY_NAME[letter.family].members) if letter.family in BY_NAME else ANY


def expect_readable(letter: StoredDeadLetter, times: PossibleTimes, other: Other | None) -> None:
    """Raises Malformed if a replay as it is would be refused, whatever is stored. Only reads the value."""
    if other is not None:
        other.expect_readable(letter)
    elif letter.family == EVENT.name and letter.member is not None:
        parse_amendment(letter.raw, times.window(round(letter.claimed_at.timestamp() * 1000)))
    else:
        _expect_any(letter, _batch_of(letter, times))


def _subject(letter: StoredDeadLetter) -> str:
    return f"dead letter {letter.dead_letter_id}"


def _changed(letter: StoredDeadLetter, other: Other | None, correction: Correction | None) -> Changed:
    if correction is None:
        return Changed(letter.raw, {})
    return change(letter.raw, letter.raw_format, letter.member, settable(letter, other), correction.members)


def _count(
    connection: psycopg.Connection,
    store: UsageStore,
    letter: StoredDeadLetter,
    times: PossibleTimes,
    other: Other | None,
) -> str:
    """Counts a dead letter; what of it is refused again is in dead letters of its own, and the text says so.

    Raises _RefusedAgain or Malformed.
    """
    if other is not None:
        result = other.replay(connection, letter)
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
    reasons = _expect_any(letter, batch)
    if letter.family == EVENT.name:
        part = Part(batch, letter.position or 0, [letter.raw])
        applied = store.apply_events(Page(batch.origin, len(batch.keys), lambda: [part]))
    else:
        applied = store.apply(BY_NAME[letter.family], batch)
    if applied.dead_letters > applied.refused_members:
        # What is stored refuses it (a total over bigint, a conflicting event). The dead letter stays as it is.
        raise _RefusedAgain(letter.reason)
    store.mark_released([batch.batch_id])
    return f"counted, without what is in a dead letter of its own now: {reasons}" if applied.refused_members else ""


def _expect_any(letter: StoredDeadLetter, batch: Batch) -> str:
    """Why parts of it are refused; empty if none is. Raises Malformed if nothing of it can count."""
    reasons = "; ".join(refused.reason for refused in batch.dead_letters)
    if not batch.lines or (letter.member is not None and batch.dead_letters):
        raise Malformed(reasons)
    return reasons


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
    claims: list[Claimed] = [(letter.source_key, raw_value(letter.raw, letter.raw_format))]
    return parse_batch(BY_NAME.get(letter.family, EVENT), origin, claims, times=times)
