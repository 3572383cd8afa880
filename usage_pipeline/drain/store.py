"""The PostgreSQL side of the drain: it applies a batch in one transaction, and tells recovery what the ledger says."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date

import psycopg
from psycopg import sql as compose

from usage_pipeline.drain.batch import Batch, DeadLetter, WrongType, dead_letter
from usage_pipeline.drain.families import Family, Value
from usage_pipeline.redis_keys import EVENT_QUEUE
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
# How often totals may overflow in one batch. Each round removes the rows that cause it; only a concurrent drain causes more.
_OVERFLOW_ROUNDS = 3
_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Applied:
    """The result of applying a batch. `is_ours` False: another drainer had applied it, so nothing was stored."""

    is_ours: bool
    stored_rows: int = 0
    dead_letters: int = 0
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
            if not self._insert_ledger_row(family.name, batch):
                return Applied(is_ours=False)
            dead_letters = list(batch.dead_letters)
            days, instances, prefixes = list[date](), list[str](), list[str]()
            stored_rows = 0
            if batch.lines:
                self._stage(family.name, batch.lines)
                days = self._prepare_days(family.name, family.raw_table, batch)
                refused = self._store_staged(family, batch, days)
                dead_letters += refused
                stored_rows = len(batch.lines) - len(refused)
                if family.name == "token":
                    instances = self._column("select distinct instance_id from staged_token order by 1")
                    prefixes = self._column(load("drain/select_staged_token_prefixes"))
            self._insert_dead_letters(family.name, batch, dead_letters)
            self._complete_ledger_row(
                batch.batch_id,
                stored_rows=stored_rows,
                dead_letters=len(dead_letters),
                usage_dates=days,
                instances=instances,
            )
        return Applied(True, stored_rows, len(dead_letters), 0, tuple(days), tuple(prefixes))

    def apply_events(self, batch: Batch, items: dict[int, bytes]) -> Applied:
        """Stores a page of request events in one transaction. Each id is stored once; a conflict becomes a dead letter.

        `items` are the raw queue items by position. Raises psycopg.Error, like `apply`.
        """
        return self._with_partitions(lambda: self._apply_events(batch, items))

    def _apply_events(self, batch: Batch, items: dict[int, bytes]) -> Applied:
        with self._connection.transaction():
            if not self._insert_ledger_row("event", batch):
                return Applied(is_ours=False)
            dead_letters, days, stored_rows = list(batch.dead_letters), list[date](), 0
            if batch.lines:
                self._stage("event", batch.lines)
                days = self._prepare_days("event", "raw.request_events", batch)
                arguments = {"batch_id": batch.batch_id, "claimed_at": batch.claimed_at, "timezone": self._timezone}
                stored_rows = self._connection.execute(load("drain/insert_request_events"), arguments).rowcount
                conflicts = [
                    DeadLetter(EVENT_QUEUE, _conflict_reason(hash_, known), items[position], "string", position)
                    for position, hash_, known in self._connection.execute(load("drain/select_event_conflicts"))
                ]
                dead_letters += conflicts
            duplicates = len(batch.keys) - stored_rows - len(dead_letters)
            self._insert_dead_letters("event", batch, dead_letters)
            self._complete_ledger_row(
                batch.batch_id,
                stored_rows=stored_rows,
                dead_letters=len(dead_letters),
                duplicates=duplicates,
                usage_dates=days,
            )
        return Applied(True, stored_rows, len(dead_letters), duplicates, tuple(days))

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

    def flag_forgettable(self, family: str, server: str) -> bool:
        """Whether the family was last drained from another Redis server than this one. False if it never was drained.

        Flags the last batches from the other server as uncertain: if a fail-over forgot their claims, their counters are live
        again and will be counted twice.
        """
        arguments = {"family": family, "redis_server": server, "seconds": FORGETFUL_SECONDS}
        return self._connection.execute(load("drain/flag_sync_batches"), arguments).fetchone() is not None

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

    def _insert_dead_letters(self, family: str, batch: Batch, letters: Sequence[DeadLetter]) -> None:
        if not letters:
            return
        with self._connection.cursor() as cursor, cursor.copy(load("drain/copy_dead_letters")) as copy:
            # Binary: in text form, bytes are twice as long, and a raw value of 512 MB would exceed the limit of 1 GB a row.
            copy.set_types(["text", "text", "bytea", "int4", "text", "bytea", "text", "timestamptz"])
            for letter in letters:
                copy.write_row(
                    (
                        family,
                        batch.batch_id,
                        letter.source_key,
                        letter.position,
                        letter.reason,
                        letter.raw,
                        letter.raw_format,
                        batch.claimed_at,
                    )
                )

    def _insert_ledger_row(self, family: str, batch: Batch) -> bool:
        arguments = {
            "batch_id": batch.batch_id,
            "family": family,
            "claimed_at": batch.claimed_at,
            "keys": len(batch.keys),
            "redis_server": batch.origin.server,
            "is_uncertain": batch.origin.is_uncertain,
            "drained_by": self._drained_by,
        }
        return self._connection.execute(load("drain/insert_sync_batch"), arguments).fetchone() is not None

    def _complete_ledger_row(
        self,
        batch_id: str,
        *,
        stored_rows: int,
        dead_letters: int,
        usage_dates: Sequence[date],
        duplicates: int = 0,
        instances: Sequence[str] = (),
    ) -> None:
        arguments = {
            "batch_id": batch_id,
            "stored_rows": stored_rows,
            "dead_letters": dead_letters,
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
                copy.write(b"\n".join((*lines[first : first + _LINES_PER_WRITE], b"")))

    def _prepare_days(self, staged: str, raw_table: str, batch: Batch) -> list[date]:
        """Makes the partitions of the days to which the staged rows belong. Returns these days."""
        query = compose.SQL("select distinct usage.day_of(last_used_at, %s, %s) from {} order by 1").format(
            _staging(staged)
        )
        days = [day for (day,) in self._connection.execute(query, (batch.claimed_at, self._timezone))]
        ensure_partitions(self._connection, raw_table, days)
        return days

    def _store_staged(self, family: Family, batch: Batch, days: list[date]) -> list[DeadLetter]:
        """Adds the staged rows to the raw table and the totals. Returns dead letters for rows that would overflow a total."""
        refused: list[DeadLetter] = []
        values: dict[bytes, Value | WrongType] = {}
        for _ in range(_OVERFLOW_ROUNDS):
            try:
                with self._connection.transaction():
                    self._connection.execute(
                        load(f"drain/insert_raw_{family.name}"),
                        {"batch_id": batch.batch_id, "claimed_at": batch.claimed_at, "timezone": self._timezone},
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


def _conflict_reason(came: str, stored: str) -> str:
    return f"event_id: expected the stored payload (hash {stored}), came another (hash {came})"
