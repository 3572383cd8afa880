"""One run of the storage lifecycle: creates partitions, reads changed ones back, drops, compresses or archives old ones.

Two strategies share one interface. The tables of events decide which one they get; raw tables always have native partitions.
Any number of runs may run at once. If a run is cut short, the next one goes on.
"""

import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Protocol

import psycopg

from usage_pipeline.settings import Settings
from usage_pipeline.storage.archives.store import archive_store
from usage_pipeline.storage.chunks.dropped import DropRules
from usage_pipeline.storage.chunks.partitions import chunks
from usage_pipeline.storage.chunks.tables import EVENT_TABLES, TABLES, LifecycleTable
from usage_pipeline.storage.lifecycle.native import NativeLifecycle
from usage_pipeline.storage.lifecycle.report import LifecycleReport
from usage_pipeline.storage.lifecycle.timescale import TimescaleLifecycle, hypertable_chunks
from usage_pipeline.storage.roles.analyst import end_long_transactions
from usage_pipeline.storage.sql import load
from usage_pipeline.storage.timescale import is_hypertable

log = logging.getLogger(__name__)

_REGISTRY_BATCH = 10_000
# A registry that is larger than this many batches is emptied by the runs that follow.
_REGISTRY_BATCHES = 1_000
_NO_ARCHIVE = "none: ARCHIVE_URL is not set, so partitions stay in the database until RETENTION_DAYS"


class Lifecycle(Protocol):
    """What a strategy does with the chunks of a table. Each chunk has its own transaction, and is noted in the report."""

    def make_ahead(self, table: LifecycleTable, now: datetime, report: LifecycleReport) -> None: ...
    def restore_changed(self, table: LifecycleTable, report: LifecycleReport) -> None: ...
    def compress(self, table: LifecycleTable, older_than: datetime, report: LifecycleReport) -> None: ...
    def drop(self, table: LifecycleTable, older_than: datetime, report: LifecycleReport) -> None: ...
    def clean_up(self, table: LifecycleTable, now: datetime, report: LifecycleReport) -> None: ...


def run_storage_lifecycle(
    connection: psycopg.Connection, settings: Settings, *, rules: DropRules, now: datetime
) -> LifecycleReport:
    """Does for every table what is due at `now`, on an autocommit connection. Raises ArchiveUnavailable or psycopg.Error.

    `rules` are those of the roll-ups, whose rows go: see `rollups.dropped.run`, which calls this.
    """
    store = archive_store(settings)
    native = NativeLifecycle(connection, store, settings.chunk_time_interval_hours, rules)
    timescale = TimescaleLifecycle(connection, settings.chunk_time_interval_hours, rules)
    hypertables = {table.name for table in EVENT_TABLES if is_hypertable(connection, table.name)}
    place = f"Parquet files ({store.protocol})" if store else _NO_ARCHIVE
    report = LifecycleReport("TimescaleDB" if hypertables else "native partitions", place)
    log.info("lifecycle: %s; archive: %s", report.strategy, place)
    end_long_transactions(connection)

    def strategy(table: LifecycleTable) -> Lifecycle:
        return timescale if table.name in hypertables else native

    compressed_before = now - timedelta(days=settings.compression_after_days)
    dropped_before = now - timedelta(days=settings.retention_days)
    # Dropped before archived: what leaves now need not become a file first.
    steps: tuple[Callable[[LifecycleTable], None], ...] = (
        lambda table: strategy(table).make_ahead(table, now, report),
        lambda table: strategy(table).clean_up(table, now, report),
        lambda table: strategy(table).restore_changed(table, report),
        lambda table: strategy(table).drop(table, dropped_before, report),
        lambda table: strategy(table).compress(table, compressed_before, report),
    )
    for step in steps:
        for table in TABLES:
            step(table)
    event_starts = [
        chunk.start
        for table in EVENT_TABLES
        for chunk in (hypertable_chunks if table.name in hypertables else chunks)(connection, table.name)
    ]
    request_starts = [chunk.start for chunk in chunks(connection, "raw.request_events")]
    report.registry_rows_removed = _empty_registry(
        connection, "usage_event_ids", [table.name for table in EVENT_TABLES], event_starts, dropped_before
    ) + _empty_registry(connection, "request_event_ids", ["raw.request_events"], request_starts, dropped_before)
    for waiting in report.waiting:
        log.info("lifecycle: %s waits: %s", waiting.chunk, waiting.reason)
    return report


def _empty_registry(
    connection: psycopg.Connection, registry: str, tables: list[str], starts: list[datetime], cutoff: datetime
) -> int:
    """Removes registry rows of events that are in no partition and no file any more, in transactions of limited size."""
    arguments = {"tables": tables, "oldest_chunk": min(starts, default=None), "cutoff": cutoff}
    [(horizon,)] = connection.execute(load("storage/lifecycle/select_registry_horizon"), arguments).fetchall()
    removed = 0
    for _ in range(_REGISTRY_BATCHES):
        rows = connection.execute(
            load(f"storage/lifecycle/delete_{registry}"), {"horizon": horizon, "limit": _REGISTRY_BATCH}
        ).rowcount
        removed += rows
        if rows < _REGISTRY_BATCH:
            break
    return removed
