"""The exactly-once drain of one family of delta counters: recover, claim, barrier, apply, release.

The protocol is architecture.md's "Exactly-once drain"; `CounterSource` and `DeltaStore` are its only I/O. Which families are
drained when, and on which servers, is in rounds.py.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import date
from typing import Protocol

from usage_pipeline.drain.batch import Batch, Claimed, new_batch_id, parse_batch
from usage_pipeline.drain.families import Family
from usage_pipeline.drain.sources.barrier import BarrierPlan, ServerFacts
from usage_pipeline.drain.sources.node import OpenBatch
from usage_pipeline.drain.store import Applied, LedgerRow

log = logging.getLogger(__name__)

# An open batch without a single claimed key may belong to a drainer that is about to rename; after this it is forgotten.
FORGET_EMPTY_BATCH_MS = 60_000


# A batch id and the keys that were claimed under it.
Claim = tuple[str, list[Claimed]]


class CounterSource(Protocol):
    """What the drain needs of Redis; RedisSource is the real one."""

    @property
    def facts(self) -> ServerFacts: ...
    @property
    def plan(self) -> BarrierPlan: ...
    def now_ms(self) -> int: ...
    def age_ms(self, batch_id: str) -> int: ...
    def live_keys(self, family: Family, chunk_keys: int) -> Iterator[list[bytes]]: ...
    def claimed_keys(self, family: Family) -> dict[str, list[bytes]]: ...
    def is_claim_scan_due(self, family: Family) -> bool: ...
    def open_batch(self, family: str, batch_id: str) -> None: ...
    def settle_batch(self, family: str, batch_id: str) -> None: ...
    def open_batches(self, family: str) -> list[OpenBatch]: ...
    def claim(self, family: Family, batch_id: str, live: Sequence[bytes]) -> list[Claimed]: ...
    def move(self, family: Family, from_batch: str, to_batch: str, held: Sequence[bytes]) -> list[Claimed]: ...
    def read(self, family: Family, batch_id: str, held: Sequence[bytes]) -> list[Claimed]: ...
    def barrier(self) -> bool: ...
    def release(self, batch_id: str, held: Sequence[bytes]) -> bool: ...
    def delete_token_caches(self, token_prefixes: Sequence[str]) -> None: ...


class DeltaStore(Protocol):
    """What the drain needs of PostgreSQL; UsageStore is the real one."""

    def apply(self, family: Family, batch: Batch) -> Applied: ...
    def ledger(self, batch_ids: Sequence[str]) -> dict[str, LedgerRow]: ...
    def unreleased(self, family: str) -> list[str]: ...
    def applied_keys(self, family: Family, row: LedgerRow) -> set[bytes]: ...
    def token_prefixes(self, family: Family, row: LedgerRow) -> Sequence[str]: ...
    def mark_released(self, batch_ids: Sequence[str]) -> None: ...


class BarrierFellShort(Exception):
    """Redis could not confirm in time that the claims are durable. They stay claimed; recovery takes them up."""


@dataclass(slots=True)
class DrainReport:
    """What a drain did. Counts are of keys, or of queue items for events."""

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
    """How large a batch may be, how old a timestamp, and when to stop between two batches."""

    chunk_keys: int = 5_000
    retention_days: int = 180
    should_stop: Callable[[], bool] = lambda: False
    deadline: float = float("inf")

    def is_reached(self) -> bool:
        """Whether to begin no further batch; `deadline` is in seconds of time.monotonic()."""
        return self.should_stop() or time.monotonic() >= self.deadline


def drain_family(
    claiming: CounterSource,
    releasing: CounterSource,
    store: DeltaStore,
    family: Family,
    limits: DrainLimits,
    *,
    is_uncertain: bool = False,
) -> DrainReport:
    """Recovers what others left claimed, then claims and stores what is live, batch by batch until nothing is left.

    `is_uncertain` flags what is claimed now: a server that has just taken over may show again what is stored already.

    Three batches are under way at once: the next one is claimed and read on one connection while PostgreSQL stores this one,
    and the keys of the one before are deleted on the other.
    Raises RedisUnavailable, psycopg.Error or BarrierFellShort: what is claimed by then stays claimed, for the next drain.
    """
    report = DrainReport(family.name)
    recover(releasing, store, family, limits, report)
    chunks = claiming.live_keys(family, limits.chunk_keys)
    deleting: tuple[str, Future[bool]] | None = None
    with (
        ThreadPoolExecutor(1, thread_name_prefix=f"claim-{family.name}") as reader,
        ThreadPoolExecutor(1, thread_name_prefix=f"release-{family.name}") as releaser,
    ):
        ahead: Future[Claim | None] | None = reader.submit(_claim_next, claiming, family, chunks, limits, report)
        while ahead is not None and (claim := ahead.result()) is not None:
            ahead = None
            if limits.is_reached():
                report.is_complete = False
            else:
                ahead = reader.submit(_claim_next, claiming, family, chunks, limits, report)
            batch = _parse(claiming, family, claim, is_uncertain, limits)
            applied = store.apply(family, batch)
            report.add(len(batch.keys), applied)
            _note_deleted(releasing, store, family, deleting)
            deleting = None
            if applied.is_ours:
                deleting = (batch.batch_id, releaser.submit(_delete_applied, releasing, batch, applied))
            else:
                _announce_again(releasing, family, batch)
        _note_deleted(releasing, store, family, deleting)
    return report


def recover(source: CounterSource, store: DeltaStore, family: Family, limits: DrainLimits, report: DrainReport) -> None:
    """Settles batches that a crash, a stop or a lost race left behind (architecture.md, "Recovery")."""
    servers = {batch.batch_id: batch.server for batch in source.open_batches(family.name)}
    unsettled = {*servers, *store.unreleased(family.name)}
    claimed = source.claimed_keys(family) if unsettled or source.is_claim_scan_due(family) else {}
    batch_ids = sorted({*unsettled, *claimed})
    ledger = store.ledger(batch_ids)
    for batch_id in batch_ids:
        if limits.is_reached():
            report.is_complete = False
            return
        held, row = claimed.get(batch_id, []), ledger.get(batch_id)
        is_uncertain = servers.get(batch_id) != source.facts.identity
        if row is not None:
            _finish_release(source, store, family, row, held, is_uncertain, report, limits)
        elif held:
            _load_left_behind(source, store, family, batch_id, held, is_uncertain, report, limits)
        elif source.age_ms(batch_id) > FORGET_EMPTY_BATCH_MS:
            source.settle_batch(family.name, batch_id)


def _claim_next(
    source: CounterSource, family: Family, chunks: Iterator[list[bytes]], limits: DrainLimits, report: DrainReport
) -> Claim | None:
    """The next batch, claimed and durable; None when no live key is left."""
    for live in chunks:
        batch_id = new_batch_id(source.now_ms())
        source.open_batch(family.name, batch_id)
        claims = source.claim(family, batch_id, live)
        if not claims:
            source.settle_batch(family.name, batch_id)
        elif source.plan.minimum_age_ms:
            # Too young to apply: the server has not synced it yet, and has no way to say when it has.
            report.left_claimed += len(claims)
        else:
            _pass_barrier(source, family, batch_id)
            return batch_id, claims
        if limits.is_reached():
            report.is_complete = False
            return None
    return None


def _pass_barrier(source: CounterSource, family: Family, batch_id: str) -> None:
    if not source.barrier():
        raise BarrierFellShort(f"{family.name}: batch {batch_id} stays claimed until Redis confirms it")


def _parse(source: CounterSource, family: Family, claim: Claim, is_uncertain: bool, limits: DrainLimits) -> Batch:
    batch_id, claims = claim
    return parse_batch(
        family,
        batch_id,
        claims,
        retention_days=limits.retention_days,
        server=source.facts.identity,
        is_uncertain=is_uncertain,
    )


def _load(source: CounterSource, store: DeltaStore, family: Family, batch: Batch, report: DrainReport) -> None:
    applied = store.apply(family, batch)
    report.add(len(batch.keys), applied)
    if not applied.is_ours:
        _announce_again(source, family, batch)
        return
    if _delete_applied(source, batch, applied):
        _settle(source, store, family, batch.batch_id)


def _announce_again(source: CounterSource, family: Family, batch: Batch) -> None:
    """Another drainer stored this batch from what was claimed by then.

    Keys that we claimed after that are not known to be stored, so nothing is deleted here: the next drain sorts it out.
    """
    source.open_batch(family.name, batch.batch_id)


def _delete_applied(source: CounterSource, batch: Batch, applied: Applied) -> bool:
    source.delete_token_caches(applied.token_prefixes)
    return source.release(batch.batch_id, batch.keys)


def _note_deleted(
    source: CounterSource, store: DeltaStore, family: Family, deleting: tuple[str, Future[bool]] | None
) -> None:
    """Waits for the deletion of a stored batch, between two transactions of the store, and settles the batch."""
    if deleting is not None:
        batch_id, is_durable = deleting
        if is_durable.result():
            _settle(source, store, family, batch_id)


def _release(source: CounterSource, store: DeltaStore, family: Family, batch_id: str, held: Sequence[bytes]) -> None:
    """Deletes applied keys. Where that is not durable yet, ledger and open batch stay as they are, for recovery."""
    if source.release(batch_id, held):
        _settle(source, store, family, batch_id)


def _settle(source: CounterSource, store: DeltaStore, family: Family, batch_id: str) -> None:
    store.mark_released([batch_id])
    source.settle_batch(family.name, batch_id)


def _load_left_behind(
    source: CounterSource,
    store: DeltaStore,
    family: Family,
    batch_id: str,
    held: Sequence[bytes],
    is_uncertain: bool,
    report: DrainReport,
    limits: DrainLimits,
) -> None:
    """A batch that was claimed and not applied: it is loaded under its own id, so that its first owner cannot again."""
    if source.plan.minimum_age_ms and source.age_ms(batch_id) < source.plan.minimum_age_ms:
        report.left_claimed += len(held)
        return
    claims = source.read(family, batch_id, held)
    if claims:
        log.info("%s: batch %s was left behind with %d keys; loading it", family.name, batch_id, len(claims))
        _pass_barrier(source, family, batch_id)
        batch = _parse(source, family, (batch_id, claims), is_uncertain, limits)
        report.recovered_batches += 1
        _load(source, store, family, batch, report)


def _finish_release(
    source: CounterSource,
    store: DeltaStore,
    family: Family,
    row: LedgerRow,
    held: Sequence[bytes],
    is_uncertain: bool,
    report: DrainReport,
    limits: DrainLimits,
) -> None:
    """A batch that was applied: its applied keys go; keys that were claimed too late for it get a batch of their own.

    Applied keys go by name, whether the scan that found `held` saw them or not: the last ones may have been renamed after it,
    or their slot moved between two primaries. Once the batch counts as released, a claim that is left counts again.
    """
    applied = set() if row.is_released else store.applied_keys(family, row)
    late = [key for key in held if key not in applied]
    if not row.is_released:
        source.delete_token_caches(store.token_prefixes(family, row))
    _release(source, store, family, row.batch_id, sorted(applied))
    if late:
        batch_id = new_batch_id(source.now_ms())
        source.open_batch(family.name, batch_id)
        claims = source.move(family, row.batch_id, batch_id, late)
        if not claims:
            # Another drainer was faster.
            source.settle_batch(family.name, batch_id)
            return
        held = [key for key, _ in claims]
        _load_left_behind(source, store, family, batch_id, held, is_uncertain, report, limits)
