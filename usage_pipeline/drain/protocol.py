"""The exactly-once drain of one family of delta counters: recover, claim, barrier, apply, release.

docs/exactly-once.md explains the protocol and its reasons. All I/O goes through `CounterSource` and `DeltaStore`. rounds.py
decides which families are drained, when, and on which servers.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from typing import Protocol

from usage_pipeline.drain.batch import Batch, Held, Origin, new_batch_id, parse_batch
from usage_pipeline.drain.families import Family
from usage_pipeline.drain.room import Room
from usage_pipeline.drain.sources.barrier import BarrierPlan, ServerFacts
from usage_pipeline.drain.sources.node import OpenBatch
from usage_pipeline.drain.store import Applied, LedgerRow
from usage_pipeline.texts import counted
from usage_pipeline.values import PossibleTimes

log = logging.getLogger(__name__)

# An open batch without claimed keys may belong to a drainer that is about to rename. After this time its note is removed.
FORGET_EMPTY_BATCH_MS = 60_000


class CounterSource(Protocol):
    """What the drain asks of Redis. RedisSource and ClusterSource are the real ones."""

    @property
    def facts(self) -> ServerFacts: ...
    @property
    def plan(self) -> BarrierPlan: ...
    def now_ms(self) -> int: ...
    def age_ms(self, batch_id: str) -> int: ...
    def live_keys(self, family: Family, chunk_keys: int) -> Iterator[list[bytes]]: ...
    def claimed_keys(self, family: Family) -> dict[str, list[bytes]]: ...
    def finds_claims(self, family: Family) -> bool: ...
    def open_batch(self, family: str, batch_id: str) -> None: ...
    def settle_batch(self, family: str, batch_id: str, *, is_stored: bool = False) -> None: ...
    def open_batches(self, family: str) -> list[OpenBatch]: ...
    def claim(self, family: Family, batch_id: str, live: Sequence[bytes]) -> Held: ...
    def move(self, family: Family, from_batch: str, to_batch: str, held: Sequence[bytes]) -> Held: ...
    def read(self, family: Family, batch_id: str, held: Sequence[bytes]) -> Held: ...
    def sizes(self, batch_id: str, held: Sequence[bytes]) -> list[int]: ...
    def barrier(self) -> bool: ...
    def release(self, batch_id: str, held: Sequence[bytes]) -> bool: ...
    def delete_token_caches(self, token_prefixes: Sequence[str]) -> None: ...


class DeltaStore(Protocol):
    """What the drain asks of PostgreSQL. UsageStore is the real one."""

    def apply(self, family: Family, batch: Batch) -> Applied: ...
    def ledger(self, batch_ids: Sequence[str]) -> dict[str, LedgerRow]: ...
    def unreleased(self, family: str) -> list[str]: ...
    def applied_keys(self, family: Family, row: LedgerRow) -> set[bytes]: ...
    def token_prefixes(self, family: Family, row: LedgerRow) -> Sequence[str]: ...
    def mark_released(self, batch_ids: Sequence[str]) -> None: ...


class BarrierFellShort(Exception):
    """Redis did not confirm in time that the claims are durable. The keys stay claimed, and recovery stores them."""


@dataclass(slots=True)
class DrainReport:
    """The result of a drain. It counts keys; for events it counts queue items."""

    family: str
    keys: int = 0
    stored_rows: int = 0
    dead_letters: int = 0
    duplicates: int = 0
    batches: int = 0
    recovered_batches: int = 0
    left_claimed: int = 0
    is_complete: bool = True
    usage_dates: set[date] = field(default_factory=set)

    def with_next(self, later: "DrainReport") -> "DrainReport":
        """Both drains of the family as one: what was done adds up, what is left is what the later one left."""
        return DrainReport(
            self.family,
            self.keys + later.keys,
            self.stored_rows + later.stored_rows,
            self.dead_letters + later.dead_letters,
            self.duplicates + later.duplicates,
            self.batches + later.batches,
            self.recovered_batches + later.recovered_batches,
            later.left_claimed,
            later.is_complete,
            self.usage_dates | later.usage_dates,
        )

    def add(self, keys: int, applied: Applied) -> None:
        if applied.is_ours:
            self.keys += keys
            self.stored_rows += applied.stored_rows
            self.dead_letters += applied.dead_letters
            self.duplicates += applied.duplicates
            self.batches += 1
            self.usage_dates.update(applied.usage_dates)


@dataclass(frozen=True, slots=True)
class DrainLimits:
    """How large a batch may be, which times can be, and when to stop. A drain stops only between two batches."""

    chunk_keys: int = 5_000
    times: PossibleTimes = field(default_factory=PossibleTimes)
    should_stop: Callable[[], bool] = lambda: False
    deadline: float = float("inf")

    def is_reached(self) -> bool:
        """Whether the drain must not begin another batch. `deadline` is in seconds of time.monotonic()."""
        return self.should_stop() or time.monotonic() >= self.deadline


@dataclass(frozen=True, slots=True)
class Claim:
    """Keys that were claimed under a batch id. `is_uncertain`: see Origin."""

    batch_id: str
    held: Held
    is_uncertain: bool


class FamilyDrain:
    """One drain of one family. All its steps use the same sources, store and limits, and add to `report`.

    `claiming` and `releasing` are two connections to the same Redis. While one claims and reads the next batch, the other
    deletes the keys of a stored batch. Recovery uses `releasing` alone.
    """

    def __init__(
        self,
        family: Family,
        *,
        claiming: CounterSource,
        releasing: CounterSource,
        store: DeltaStore,
        limits: DrainLimits,
    ) -> None:
        self.report = DrainReport(family.name)
        self._family = family
        self._claiming = claiming
        self._releasing = releasing
        self._store = store
        self._limits = limits

    def run(self, *, is_uncertain: bool = False) -> DrainReport:
        """Recovers what other drainers left claimed. Then it claims and stores live keys, batch by batch, until none is left.

        `is_uncertain` flags what is claimed now: a server that has just taken over may show keys again that are stored already.

        Three batches are under way at once. While PostgreSQL stores one, the next one is claimed and read on one connection,
        and the keys of the one before are deleted on the other. A batch whose keys are too large to be held at once is stored
        part by part, with no other one under way.
        Raises RedisUnavailable, psycopg.Error or BarrierFellShort. What is claimed by then stays claimed, for the next drain.
        """
        self.recover()
        chunks = self._claiming.live_keys(self._family, self._limits.chunk_keys)
        deleting: tuple[str, Future[bool]] | None = None
        with (
            ThreadPoolExecutor(1, thread_name_prefix=f"claim-{self._family.name}") as reader,
            ThreadPoolExecutor(1, thread_name_prefix=f"release-{self._family.name}") as releaser,
        ):
            ahead: Future[Claim | None] | None = reader.submit(self._claim_next, chunks, is_uncertain)
            while ahead is not None and (claim := ahead.result()) is not None:
                ahead = None
                if not claim.held.left:
                    ahead = self._submit_next(reader, chunks, is_uncertain)
                batch = self._parsed(claim, self._claiming.facts.identity)
                applied = self._apply(batch)
                self._note_deleted(deleting)
                deleting = None
                if not applied.is_ours:
                    self._announce_again(batch)
                elif claim.held.left:
                    self._finish(batch, applied, claim)
                else:
                    deleting = (
                        batch.batch_id,
                        releaser.submit(self._delete_applied, batch.batch_id, batch.keys, applied),
                    )
                if claim.held.left:
                    ahead = self._submit_next(reader, chunks, is_uncertain)
            self._note_deleted(deleting)
        return self.report

    def recover(self) -> None:
        """Settles batches that a crash, a stop or a lost race left behind (docs/exactly-once.md, "Recovery")."""
        source, family = self._releasing, self._family
        servers = {batch.batch_id: batch.server for batch in source.open_batches(family.name)}
        unsettled = {*servers, *self._store.unreleased(family.name)}
        claimed = source.claimed_keys(family) if unsettled or source.finds_claims(family) else {}
        batch_ids = sorted({*unsettled, *claimed})
        ledger = self._store.ledger(batch_ids)
        for number, batch_id in enumerate(batch_ids):
            # One at least, so that recovery ends some day, however little time each drain gets.
            if number > 0 and self._limits.is_reached():
                self.report.is_complete = False
                return
            held, row = claimed.get(batch_id, []), ledger.get(batch_id)
            is_uncertain = servers.get(batch_id) != source.facts.identity
            if row is not None:
                self._finish_release(row, held, is_uncertain)
            elif held:
                self._load_left_behind(batch_id, held, is_uncertain)
            elif source.age_ms(batch_id) > FORGET_EMPTY_BATCH_MS:
                source.settle_batch(family.name, batch_id)

    # claiming

    def _submit_next(
        self, reader: ThreadPoolExecutor, chunks: Iterator[list[bytes]], is_uncertain: bool
    ) -> "Future[Claim | None] | None":
        """Begins to claim the next batch. None if a limit is reached."""
        if self._limits.is_reached():
            self.report.is_complete = False
            return None
        return reader.submit(self._claim_next, chunks, is_uncertain)

    def _claim_next(self, chunks: Iterator[list[bytes]], is_uncertain: bool) -> Claim | None:
        """Claims the next batch, and waits until that is durable. None when no live key is left, or a limit is reached."""
        source, family = self._claiming, self._family
        for live in chunks:
            batch_id = new_batch_id(source.now_ms())
            source.open_batch(family.name, batch_id)
            held = source.claim(family, batch_id, live)
            if not held.keys and not held.left:
                source.settle_batch(family.name, batch_id)
            elif source.plan.minimum_age_ms:
                # Too young to apply: the server may not have synced the claim yet, and cannot say when it has.
                self.report.left_claimed += len(held.keys) + len(held.left)
            else:
                self._pass_barrier(source, batch_id)
                return Claim(batch_id, held, is_uncertain)
            if self._limits.is_reached():
                self.report.is_complete = False
                return None
        return None

    def _pass_barrier(self, source: CounterSource, batch_id: str) -> None:
        if not source.barrier():
            raise BarrierFellShort(
                f"{self._family.name}: Redis did not confirm in time that the claim of batch {batch_id} is durable"
            )

    # storing

    def _parsed(self, claim: Claim, server: str) -> Batch:
        origin = Origin.of_claim(claim.batch_id, server, is_uncertain=claim.is_uncertain)
        return parse_batch(self._family, origin, claim.held.keys, times=self._limits.times)

    def _apply(self, batch: Batch) -> Applied:
        applied = self._store.apply(self._family, batch)
        self.report.add(len(batch.keys), applied)
        return applied

    def _store_claim(self, claim: Claim) -> None:
        """Stores claims, also those for which the batch has no room, and settles the batch. It uses `releasing` alone."""
        self._pass_barrier(self._releasing, claim.batch_id)
        batch = self._parsed(claim, self._releasing.facts.identity)
        applied = self._apply(batch)
        if applied.is_ours:
            self._finish(batch, applied, claim)
        else:
            self._announce_again(batch)

    def _finish(self, batch: Batch, applied: Applied, claim: Claim) -> None:
        is_deleted = self._delete_applied(batch.batch_id, batch.keys, applied)
        if self._store_late(batch.batch_id, claim.held.left, claim.is_uncertain) and is_deleted:
            self._settle(batch.batch_id)

    def _store_late(self, batch_id: str, late: Sequence[bytes], is_uncertain: bool) -> bool:
        """Stores claims of a batch that is stored without them, in batches of their own. False if a limit ended it before.

        Only after the batch is stored: before, another drainer may have read them, and would store them with the batch.
        """
        source, family = self._releasing, self._family
        sizes = source.sizes(batch_id, late)
        while late:
            room = Room()
            fitting = room.take(sizes)
            some, late, sizes = late[:fitting], late[fitting:], sizes[fitting:]
            new = new_batch_id(source.now_ms())
            source.open_batch(family.name, new)
            held = source.move(family, batch_id, new, some)
            if not held.keys and not held.left:
                # Another drainer has already moved them.
                source.settle_batch(family.name, new)
            elif source.plan.minimum_age_ms:
                self.report.left_claimed += len(held.keys) + len(held.left)
            else:
                self._store_claim(Claim(new, held, is_uncertain))
            if late and self._limits.is_reached():
                self.report.is_complete = False
                return False
        return True

    def _announce_again(self, batch: Batch) -> None:
        """Notes a batch again that another drainer has stored, with the keys that were claimed by then.

        Keys that we claimed later may not be stored. So we delete nothing here, and the next drain recovers the batch.
        """
        self._releasing.open_batch(self._family.name, batch.batch_id)

    # releasing

    def _delete_applied(self, batch_id: str, keys: Sequence[bytes], applied: Applied) -> bool:
        self._releasing.delete_token_caches(applied.token_prefixes)
        return self._releasing.release(batch_id, keys)

    def _note_deleted(self, deleting: tuple[str, Future[bool]] | None) -> None:
        """Waits until the keys of a stored batch are deleted, and settles it if that is durable. Runs between transactions."""
        if deleting is not None:
            batch_id, is_durable = deleting
            if is_durable.result():
                self._settle(batch_id)

    def _settle(self, batch_id: str) -> None:
        self._store.mark_released([batch_id])
        self._releasing.settle_batch(self._family.name, batch_id, is_stored=True)

    # recovering

    def _load_left_behind(self, batch_id: str, held: Sequence[bytes], is_uncertain: bool) -> None:
        """Stores a batch that was claimed and not applied. It keeps its id, so that its first owner cannot store it too."""
        source, family = self._releasing, self._family
        if source.plan.minimum_age_ms and source.age_ms(batch_id) < source.plan.minimum_age_ms:
            self.report.left_claimed += len(held)
            return
        held_now = source.read(family, batch_id, held)
        if not held_now.keys and not held_now.left:
            return
        log.info(
            "%s: batch %s was claimed but not stored; storing its %s now",
            family.name,
            batch_id,
            counted(len(held), "key"),
        )
        with self._counting_recovered():
            self._store_claim(Claim(batch_id, held_now, is_uncertain))

    @contextmanager
    def _counting_recovered(self) -> Iterator[None]:
        before = self.report.batches
        yield
        self.report.recovered_batches += self.report.batches - before

    def _finish_release(self, row: LedgerRow, held: Sequence[bytes], is_uncertain: bool) -> None:
        """Deletes the applied keys of a batch that was applied. Keys that were claimed too late for it get their own batches.

        Applied keys are deleted by name, even if the scan that found `held` did not see them: the last ones may have been
        renamed after the scan, or their slot moved between two primaries. Once the batch is marked as released, every claim
        of it that is left is taken for a late one, and counts again.
        """
        source, family = self._releasing, self._family
        applied = set() if row.is_released else self._store.applied_keys(family, row)
        late = [key for key in held if key not in applied]
        if not row.is_released:
            source.delete_token_caches(self._store.token_prefixes(family, row))
        # If the deletion is not durable yet, the ledger row and the note stay as they are, for the next recovery.
        is_deleted = source.release(row.batch_id, sorted(applied))
        with self._counting_recovered():
            if self._store_late(row.batch_id, late, is_uncertain) and is_deleted:
                self._settle(row.batch_id)
