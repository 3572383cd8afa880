"""The PostgreSQL side of the drain: it applies a batch in one transaction, and tells recovery what the ledger says."""

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from itertools import chain
from uuid import UUID

import psycopg
from psycopg import sql as compose
from usage_recorder.keys import EVENT_QUEUE

from usage_pipeline.drain.batch import Batch, Content, DeadLetter, Origin, Page, claim_of, dead_letter
from usage_pipeline.drain.families import Family
from usage_pipeline.storage.chunks.partitions import ensure_partitions
from usage_pipeline.storage.postgres import waiting_for_locks
from usage_pipeline.storage.sql import composed, load, relation
from usage_pipeline.values import MAX_COUNT

# A fail-over forgets what the replica had not received yet. Redis disconnects a replica that is silent for `repl-timeout`
# (60 s), so this time covers every connected replica. To promote one that was disconnected for longer is like restoring an
# old snapshot by hand.
FORGETFUL_SECONDS = 60
# Lines that are joined before they are sent: enough to save calls, but not so many that memory holds a large batch twice.
_LINES_PER_WRITE = 500
_LARGEST_WRITE = 2**20
# How often totals may overflow in one batch. Each round removes the rows that cause it; only a concurrent drain causes more.
_OVERFLOW_ROUNDS = 3
_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Applied:
    """The result of applying a batch. `is_ours` False: another drainer had applied it, so nothing was stored.

    `refused_members` are those of the dead letters that are of one member, whose key or event is stored.
    """

    is_ours: bool
    stored_rows: int = 0
    dead_letters: int = 0
    refused_members: int = 0
    duplicates: int = 0
    usage_dates: tuple[date, ...] = ()
    token_prefixes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """The row of a batch in the ledger."""

    batch_id: str
    is_released: bool
    usage_dates: tuple[date, ...]


class UsageStore:
    """The usage tables, on one autocommit connection. The caller opens and closes it."""

    def __init__(self, connection: psycopg.Connection, *, usage_timezone: str, drained_by: str) -> None:
        self._connection = connection
        self._timezone = usage_timezone
        self._drained_by = drained_by

    @contextmanager
    def lock(self, family: str, *, wait_seconds: float = 0.0) -> Iterator[bool]:
        """Takes the advisory lock of a family, and yields whether it was free within `wait_seconds`.

        The lock only saves double work. Correctness never depends on it.
        """
        got = self._take_lock(family, wait_seconds)
        try:
            yield got
        finally:
            if got and not self._connection.closed:
                self._connection.execute("select pg_advisory_unlock(hashtext('drain'), hashtext(%s))", (family,))

    def apply(self, family: Family, batch: Batch) -> Applied:
        """Stores a batch in one transaction: ledger row, raw rows, touched days, totals, dead letters.

        If this transaction did not insert the ledger row, it stores nothing else.
        Raises psycopg.Error when PostgreSQL fails. Recovery finds out whether a COMMIT without an answer succeeded.
        """
        return self._with_partitions(lambda: self._apply(family, batch))

    def _apply(self, family: Family, batch: Batch) -> Applied:
        connection = self._connection
        with connection.transaction():
            connection.execute("select ops.expect_time_zone(%s)", (self._timezone,))
            if not self._insert_ledger_row(family.name, batch.origin, len(batch.keys)):
                return Applied(is_ours=False)
            dead_letters: Sequence[DeadLetter] = batch.dead_letters
            days, instances, prefixes = list[date](), list[str](), list[str]()
            stored_rows = 0
            if batch.lines:
                self._stage(family.name, batch.lines)
                days = self._prepare_days(family.name, family.raw_table, batch.claimed_at)
                refused = self._store_staged(family, batch, days)
                dead_letters = _without_members_of(refused, dead_letters)
                stored_rows = len(batch.lines) - len(refused)
                if family.name == "token":
                    instances = self._column("select distinct instance_id from staged_token order by 1")
                    prefixes = self._column(load("drain/select_staged_token_prefixes"))
            whole, members = self._insert_dead_letters(family.name, batch.origin, dead_letters)
            self._complete_ledger_row(
                batch.batch_id, whole, members, stored_rows=stored_rows, usage_dates=days, instances=instances
            )
        return Applied(True, stored_rows, whole + members, members, 0, tuple(days), tuple(prefixes))

    def apply_events(self, page: Page) -> Applied:
        """Stores a page of request events in one transaction. Each id is stored once; a conflict becomes a dead letter.

        Raises psycopg.Error, like `apply`, and what the parts of the page raise.
        """
        return self._with_partitions(lambda: self._apply_events(page))

    def _apply_events(self, page: Page) -> Applied:
        with self._connection.transaction():
            self._connection.execute("select ops.expect_time_zone(%s)", (self._timezone,))
            if not self._insert_ledger_row("event", page.origin, page.items):
                return Applied(is_ours=False)
            lines = letters = 0
            for part in page.parts():
                letters += len(part.batch.dead_letters)
                if part.batch.lines:
                    self._stage("event", part.batch.lines)
                    lines += len(part.batch.lines)
            days, stored_rows, conflicts = list[date](), 0, dict[int, str]()
            if lines:
                days = self._prepare_days("event", "raw.request_events", page.origin.claimed_at)
                arguments = {**_claim_of(page.origin), "timezone": self._timezone}
                stored_rows = self._connection.execute(load("drain/insert_request_events"), arguments).rowcount
                conflicts = {
                    position: _conflict_reason(hash_, known)
                    for position, hash_, known in self._connection.execute(load("drain/select_event_conflicts"))
                }
            whole = members = 0
            if letters or conflicts:
                stored = self._newly_stored(page.origin, days) if lines else set[int]()
                whole, members = self._insert_dead_letters("event", page.origin, _letters_of(page, conflicts, stored))
            duplicates = page.items - stored_rows - whole
            self._complete_ledger_row(
                page.origin.batch_id, whole, members, stored_rows=stored_rows, duplicates=duplicates, usage_dates=days
            )
        return Applied(True, stored_rows, whole + members, members, duplicates, tuple(days))

    def _newly_stored(self, page: Origin, days: Sequence[date]) -> set[int]:
        arguments = {"batch_id": page.batch_id, "usage_dates": list(days)}
        found = self._connection.execute(load("drain/select_newly_stored_positions"), arguments)
        return {position for (position,) in found}

    def amend_event(
        self, event_id: UUID, *, at: datetime | None, extra: str | None, claimed_at: datetime
    ) -> Sequence[date]:
        """Gives a stored request event another time, or more unknown members (JSON). Its days; none if it is gone."""
        day = None
        if at is not None:
            query = "select usage.day_of(%s, %s, %s)"
            [(day,)] = self._connection.execute(query, (at, claimed_at, self._timezone)).fetchall()
            ensure_partitions(self._connection, "raw.request_events", [day])
        arguments = {"event_id": event_id, "usage_date": day, "at": at, "extra": extra}
        return [day for (day,) in self._connection.execute(load("drain/amend_request_event"), arguments)]

    def ledger(self, batch_ids: Sequence[str]) -> dict[str, LedgerRow]:
        """The ledger rows of these batches by batch id. A batch without a row is left out."""
        rows = self._connection.execute(load("drain/select_sync_batches"), {"batch_ids": list(batch_ids)})
        return {batch_id: LedgerRow(batch_id, is_released, tuple(days)) for batch_id, is_released, days in rows}

    def unreleased(self, family: str) -> list[str]:
        """Batches whose keys are not known to be gone from Redis, oldest first."""
        rows = self._connection.execute(load("drain/select_unreleased_batches"), {"family": family})
        return [batch_id for (batch_id,) in rows]

    def applied_keys(self, family: Family, row: LedgerRow) -> set[bytes]:
        """The live names of the keys that the batch applied: those that it stored and those that it refused."""
        query = composed("drain/select_applied_keys", raw_table=relation(family.raw_table))
        arguments = {"batch_id": row.batch_id, "usage_dates": list(row.usage_dates)}
        return {key for (key,) in self._connection.execute(query, arguments)}

    def token_prefixes(self, family: Family, row: LedgerRow) -> tuple[str, ...]:
        """Prefixes under which tokens of an applied batch may be cached; none for other families."""
        if family.name != "token":
            return ()
        arguments = {"batch_id": row.batch_id, "usage_dates": list(row.usage_dates)}
        rows = self._connection.execute(load("drain/select_token_prefixes_of_batch"), arguments)
        return tuple(prefix for (prefix,) in rows)

    def mark_released(self, batch_ids: Sequence[str]) -> None:
        """Marks these batches as released: their keys are gone from Redis, and that is durable."""
        self._connection.execute(load("drain/release_sync_batches"), {"batch_ids": list(batch_ids)})

    def flag_forgettable(self, family: str, server: str, settled: Callable[[Sequence[str]], Mapping[str, str]]) -> bool:
        """Whether another Redis server than this one, from which the family was last drained, may have known more than this.

        False if it never was drained, or if this server knows all of the last batches from others as `settled` by the server
        that they were claimed from: then it is that one, started again, or a replica that had all of it. Flags the others as
        uncertain: if a fail-over forgot their claims, their counters are live again and will be counted twice.
        """
        arguments = {"family": family, "redis_server": server, "seconds": FORGETFUL_SECONDS}
        found = self._connection.execute(load("drain/select_forgettable_batches"), arguments).fetchall()
        if not found:
            return False
        known = settled(sorted({claim_of(batch_id) for batch_id, *_ in found}))
        unsettled = [row for row in found if known.get(claim_of(row[0])) != row[1]]
        flagged = [batch_id for batch_id, _, is_uncertain, _ in unsettled if not is_uncertain]
        if flagged:
            self._connection.execute(load("drain/flag_sync_batches"), {"batch_ids": flagged})
        return any(is_latest_elsewhere for *_, is_latest_elsewhere in unsettled)

    def note_expiring_tokens(self, looked_at: int, expiring: int, shortest_seconds: float) -> None:
        """Notes, for the alerts, that a drain found token keys that were about to expire."""
        arguments = {"looked_at": looked_at, "expiring": expiring, "shortest_seconds": shortest_seconds}
        self._connection.execute(load("drain/note_expiring_tokens"), arguments)

    # inside

    def _with_partitions(self, apply: Callable[[], Applied]) -> Applied:
        """Runs `apply`, and again if a partition was archived and dropped between our look and our insert."""
        for _ in range(_ATTEMPTS - 1):
            try:
                return apply()
            except (psycopg.errors.CheckViolation, psycopg.errors.UndefinedTable):
                continue
        return apply()

    def _take_lock(self, family: str, wait_seconds: float) -> bool:
        if wait_seconds <= 0:
            try_lock = "select pg_try_advisory_lock(hashtext('drain'), hashtext(%s))"
            [[got]] = self._connection.execute(try_lock, (family,)).fetchall()
            return bool(got)
        try:
            with waiting_for_locks(self._connection, wait_seconds):
                self._connection.execute("select pg_advisory_lock(hashtext('drain'), hashtext(%s))", (family,))
        except psycopg.errors.LockNotAvailable:
            return False
        return True

    def _insert_dead_letters(self, family: str, origin: Origin, letters: Iterable[DeadLetter]) -> tuple[int, int]:
        """Stores dead letters, one in memory at a time. Returns how many are of whole keys or items, and of single members."""
        whole = members = 0
        remaining = iter(letters)
        first = next(remaining, None)
        if first is None:
            return 0, 0
        with self._connection.cursor() as cursor, cursor.copy(load("drain/copy_dead_letters")) as copy:
            # Binary: in text form, bytes are twice as long, and a raw value of 512 MB would exceed the limit of 1 GB a row.
            copy.set_types(["text", "text", "bytea", "int4", "text", "bytea", "text", "timestamptz", "text"])
            for letter in chain([first], remaining):
                copy.write_row(
                    (
                        family,
                        origin.batch_id,
                        letter.source_key,
                        letter.position,
                        letter.reason,
                        letter.raw,
                        letter.raw_format,
                        origin.claimed_at,
                        letter.member,
                    )
                )
                if letter.member is None:
                    whole += 1
                else:
                    members += 1
        return whole, members

    def _insert_ledger_row(self, family: str, origin: Origin, keys: int) -> bool:
        arguments = {
            "batch_id": origin.batch_id,
            "family": family,
            "claimed_at": origin.claimed_at,
            "keys": keys,
            "redis_server": origin.server,
            "is_uncertain": origin.is_uncertain,
            "drained_by": self._drained_by,
        }
        return self._connection.execute(load("drain/insert_sync_batch"), arguments).fetchone() is not None

    def _complete_ledger_row(
        self,
        batch_id: str,
        whole: int,
        members: int,
        *,
        stored_rows: int,
        usage_dates: Sequence[date],
        duplicates: int = 0,
        instances: Sequence[str] = (),
    ) -> None:
        """`whole` and `members`: dead letters of whole keys or items, and of single members of others."""
        arguments = {
            "batch_id": batch_id,
            "stored_rows": stored_rows,
            "dead_letters": whole + members,
            "refused_members": members,
            "duplicates": duplicates,
            "usage_dates": list(usage_dates),
            "instances": list(instances),
        }
        self._connection.execute(load("drain/complete_sync_batch"), arguments)

    def _stage(self, staged: str, lines: Sequence[bytes]) -> None:
        self._connection.execute(load(f"drain/stage_{staged}"))
        copy_in = compose.SQL("copy {} from stdin (encoding 'utf8')").format(_staging(staged))
        with self._connection.cursor() as cursor, cursor.copy(copy_in) as copy:
            for first in range(0, len(lines), _LINES_PER_WRITE):
                some = lines[first : first + _LINES_PER_WRITE]
                if sum(map(len, some)) > _LARGEST_WRITE:
                    for line in some:
                        copy.write(line)
                        copy.write(b"\n")
                else:
                    copy.write(b"\n".join((*some, b"")))

    def _prepare_days(self, staged: str, raw_table: str, claimed_at: datetime) -> list[date]:
        """Makes the partitions of the days to which the staged rows belong. Returns these days."""
        query = compose.SQL("select distinct usage.day_of(last_used_at, %s, %s) from {} order by 1").format(
            _staging(staged)
        )
        days = [day for (day,) in self._connection.execute(query, (claimed_at, self._timezone))]
        ensure_partitions(self._connection, raw_table, days)
        return days

    def _store_staged(self, family: Family, batch: Batch, days: list[date]) -> list[DeadLetter]:
        """Adds the staged rows to the raw table and the totals. Returns dead letters for rows that would overflow a total."""
        refused: list[DeadLetter] = []
        values: dict[bytes, Content] = {}
        for _ in range(_OVERFLOW_ROUNDS):
            try:
                with self._connection.transaction():
                    self._connection.execute(
                        load(f"drain/insert_raw_{family.name}"),
                        {**_claim_of(batch.origin), "timezone": self._timezone},
                    )
                    self._connection.execute(load("drain/touch_days"), {"family": family.name, "usage_dates": days})
                    self._connection.execute(load(f"drain/upsert_totals_{family.name}"))
                return refused
            except psycopg.errors.NumericValueOutOfRange:
                values = values or dict(batch.claims)
                rows = self._connection.execute(load(f"drain/refuse_overflowing_{family.name}")).fetchall()
                refused += [
                    dead_letter(
                        key, values[key], f"total: expected at most {MAX_COUNT} (bigint) with this key, came more"
                    )
                    for key in (source_key.encode() for (source_key,) in rows)
                ]
        raise RuntimeError(
            f"batch {batch.batch_id}: expected totals within bigint after {_OVERFLOW_ROUNDS} rounds, came larger ones"
        )

    def _column(self, query: str) -> list[str]:
        return [value for (value,) in self._connection.execute(query)]


def _staging(staged: str) -> compose.Identifier:
    return compose.Identifier(f"staged_{staged}")


def _claim_of(origin: Origin) -> dict[str, object]:
    return {"batch_id": origin.batch_id, "claimed_at": origin.claimed_at}


def _without_members_of(whole: Sequence[DeadLetter], letters: Sequence[DeadLetter]) -> list[DeadLetter]:
    """All of them, without single members of keys that are refused as a whole after all: they count from one dead letter."""
    refused = {letter.source_key for letter in whole}
    return [*(letter for letter in letters if letter.member is None or letter.source_key not in refused), *whole]


def _letters_of(page: Page, conflicts: Mapping[int, str], stored: Container[int]) -> Iterator[DeadLetter]:
    """The dead letters of a page. Of single members only those of events that this page stored: an event that came before has
    them already, and one in conflict is refused as a whole.
    """
    for part in page.parts():
        for letter in part.batch.dead_letters:
            if letter.member is None or (letter.position in stored and letter.position not in conflicts):
                yield letter
        for position, item in enumerate(part.items, part.first):
            if position in conflicts:
                yield DeadLetter(EVENT_QUEUE, conflicts[position], item, "string", position)


def _conflict_reason(came: str, stored: str) -> str:
    return f"event_id: expected the stored payload (hash {stored}), came another (hash {came})"
