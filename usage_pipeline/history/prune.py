"""Removes old runs, event rows and check executions from Dagster's storage; the status of every partition stays as it is.

What statuses are derived from is found first and kept whatever its age: the newest event of each kind of each asset and
partition, the newest executions of each check, and their runs. Ticks are the daemon's to purge (`retention` in dagster.yaml).
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg

from usage_pipeline.history.storage import STORAGE_COLUMNS, expect_known_storage
from usage_pipeline.storage.sql import load

ENDED_STATUSES = ["SUCCESS", "FAILURE", "CANCELED"]
_RUNS_PER_BATCH = 100
_ROWS_PER_BATCH = 5_000
# A statement beside a busy daemon: it rather gives up than holds others up. What it did not do is left for the next day.
_PATIENCE = "set statement_timeout = '60s'; set lock_timeout = '5s'"


class AlreadyPruning(Exception):
    """Another run prunes this storage."""


@dataclass(frozen=True, slots=True)
class HistoryLimits:
    """Days of history that stay: of runs; of the details of those that succeeded and of reports without a run."""

    run_days: int
    event_days: int
    budget_seconds: float = 300.0


@dataclass(frozen=True, slots=True)
class StorageSize:
    """Rows in Dagster's storage, and bytes of its tables on disk: freed space is used again before the files shrink."""

    runs: int
    event_rows: int
    ticks: int
    bytes: int


@dataclass(slots=True)
class Removed:
    """What was removed; `bytes` of the rows of events and check executions, `runs_slimmed` lost their details only."""

    runs: int = 0
    runs_slimmed: int = 0
    event_rows: int = 0
    check_executions: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class HistoryReport:
    """What pruning did, and the storage before and after it. Not complete: the budget was spent, the next run goes on."""

    before: StorageSize
    after: StorageSize
    removed: Removed
    is_complete: bool
    seconds: float


@dataclass(slots=True)
class _Pruning:
    connection: psycopg.Connection
    delete_run: Callable[[str], None]
    parameters: dict[str, Any]
    deadline: float
    removed: Removed = field(default_factory=Removed)

    @property
    def is_late(self) -> bool:
        return time.monotonic() >= self.deadline

    def one(self, query: str, **more: Any) -> tuple[Any, ...]:
        [row] = self.connection.execute(load(query), {**self.parameters, **more}).fetchall()
        return tuple(row)


def prune_history(
    connection: psycopg.Connection,
    limits: HistoryLimits,
    *,
    run_id: str,
    delete_run: Callable[[str], None],
    now: datetime | None = None,
) -> HistoryReport:
    """Prunes the storage that `connection` (autocommit) reaches, in small batches; `run_id` is the run that does so.

    `delete_run` removes a run and what is left of it, as Dagster itself does. Idempotent, and safe beside a daemon and after
    a crash at any point. Raises UnknownStorage before anything is removed, and AlreadyPruning.
    """
    expect_known_storage(connection, run_id)
    now, started = now or datetime.now(UTC), time.monotonic()
    runs_before, events_before = (now - timedelta(days=days) for days in (limits.run_days, limits.event_days))
    connection.execute(_PATIENCE)
    if connection.execute("select pg_try_advisory_lock(hashtext('prune history'))").fetchone() != (True,):
        raise AlreadyPruning("expected to prune alone; another run does so, and goes on")
    try:
        before = _measure(connection)
        for kept in ("checks", "events", "runs"):
            connection.execute(f"drop table if exists pg_temp.kept_{kept}")
            connection.execute(load(f"history/stage_kept_{kept}"))
            connection.execute(f"analyze pg_temp.kept_{kept}")
        parameters = {
            "ended_statuses": ENDED_STATUSES,
            "runs_before": runs_before.timestamp(),
            "events_before": events_before.timestamp(),
            # Without a zone, as Dagster stores its times: they are UTC.
            "before": events_before.replace(tzinfo=None),
        }
        pruning = _Pruning(connection, delete_run, parameters, started + limits.budget_seconds)
        is_complete = _prune_runs(pruning) and _prune_reports(pruning) and _prune_checks(pruning)
        after = _measure(connection)
    finally:
        connection.execute("select pg_advisory_unlock(hashtext('prune history'))")
    return HistoryReport(before, after, pruning.removed, is_complete, time.monotonic() - started)


def _prune_runs(pruning: _Pruning) -> bool:
    """Whether it came to the end within the budget; so do the others."""
    after = 0
    query = load("history/select_ended_runs")
    while not pruning.is_late:
        parameters = {**pruning.parameters, "after": after, "most": _RUNS_PER_BATCH}
        found = pruning.connection.execute(query, parameters).fetchall()
        if not found:
            return True
        after = found[-1][0]
        slim = [run_id for _, run_id, what in found if what == "details"]
        doomed = [run_id for _, run_id, what in found if what == "run"]
        if slim and _delete_events(pruning, slim, whole=False):
            pruning.removed.runs_slimmed += len(slim)
        if doomed:
            # The run itself goes last: until then a crash leaves a run that the next day finds again, and no rows without one.
            _delete_events(pruning, doomed, whole=True)
        for run_id in doomed:
            if pruning.is_late:
                return False
            pruning.delete_run(run_id)
            pruning.removed.runs += 1
    return False


def _delete_events(pruning: _Pruning, run_ids: list[str], *, whole: bool) -> int:
    rows, size = pruning.one("history/delete_run_events", run_ids=run_ids, whole=whole)
    pruning.removed.event_rows += rows
    pruning.removed.bytes += size
    return int(rows)


def _prune_reports(pruning: _Pruning) -> bool:
    after = 0
    while not pruning.is_late:
        last, rows, size = pruning.one("history/delete_reports", after=after, most=_ROWS_PER_BATCH)
        pruning.removed.event_rows += rows
        pruning.removed.bytes += size
        if last is None:
            return True
        after = last
    return False


def _prune_checks(pruning: _Pruning) -> bool:
    after = 0
    while not pruning.is_late:
        last, rows, size = pruning.one("history/delete_check_executions", after=after, most=_ROWS_PER_BATCH)
        pruning.removed.check_executions += rows
        pruning.removed.bytes += size
        if last is None:
            return True
        after = last
    return False


def _measure(connection: psycopg.Connection) -> StorageSize:
    [row] = connection.execute(load("history/measure_storage"), {"tables": list(STORAGE_COLUMNS)}).fetchall()
    return StorageSize(*row)
