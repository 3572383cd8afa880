"""Removes old runs, event rows and check executions from Dagster's storage. The status of every partition stays.

It first finds the rows that statuses come from, and keeps them however old they are: the newest event of each kind of each
asset and partition, the newest executions of each check, and their runs. The daemon removes old ticks (`retention` in
dagster.yaml).
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
    """Another run is pruning this storage."""


@dataclass(frozen=True, slots=True)
class HistoryLimits:
    """How many days of history stay: of runs, and of details of succeeded runs and reports without a run."""

    run_days: int
    event_days: int
    budget_seconds: float = 300.0


@dataclass(frozen=True, slots=True)
class StorageSize:
    """Rows in Dagster's storage, and bytes of its tables on disk. Files may not shrink: freed space is used again."""

    runs: int
    event_rows: int
    ticks: int
    bytes: int


@dataclass(slots=True)
class Removed:
    """What was removed. `bytes` are those of event and check rows. `runs_slimmed` counts runs that lost only their details."""

    runs: int = 0
    runs_slimmed: int = 0
    logs_of_kept_runs: int = 0
    event_rows: int = 0
    check_executions: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class HistoryReport:
    """What pruning did, and the storage before and after. If not complete, its time was used up; the next run goes on."""

    before: StorageSize
    after: StorageSize
    removed: Removed
    is_complete: bool
    seconds: float


@dataclass(slots=True)
class _Pruning:
    connection: psycopg.Connection
    delete_run: Callable[[str], None]
    delete_logs: Callable[[str], None]
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
    delete_logs: Callable[[str], None],
    now: datetime | None = None,
) -> HistoryReport:
    """Prunes the storage of `connection` (autocommit) in small batches. `run_id` is the run that does this.

    `delete_run` removes a run with all its rows and logs, as Dagster does, and `delete_logs` the logs of a run that stays. It
    is safe to repeat, beside a daemon, and after a crash at any point.

    Raises AlreadyPruning, and UnknownStorage before anything is removed.
    """
    expect_known_storage(connection, run_id)
    now, started = now or datetime.now(UTC), time.monotonic()
    runs_before, events_before = (now - timedelta(days=days) for days in (limits.run_days, limits.event_days))
    connection.execute(_PATIENCE)
    if connection.execute("select pg_try_advisory_lock(hashtext('prune history'))").fetchone() != (True,):
        raise AlreadyPruning("expected no other run that prunes, came one; it goes on")
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
        pruning = _Pruning(connection, delete_run, delete_logs, parameters, started + limits.budget_seconds)
        is_complete = _prune_runs(pruning) and _prune_reports(pruning) and _prune_checks(pruning)
        after = _measure(connection)
    finally:
        connection.execute("select pg_advisory_unlock(hashtext('prune history'))")
    return HistoryReport(before, after, pruning.removed, is_complete, time.monotonic() - started)


def _prune_runs(pruning: _Pruning) -> bool:
    """Prunes runs. Like the other steps, it returns whether it finished within the time budget."""
    after = 0
    query = load("history/select_ended_runs")
    while not pruning.is_late:
        parameters = {**pruning.parameters, "after": after, "most": _RUNS_PER_BATCH}
        found = pruning.connection.execute(query, parameters).fetchall()
        if not found:
            return True
        after = found[-1][0]
        # The logs go first: until then a crash leaves the event that says where they are.
        bare = [run_id for _, run_id, what in found if what == "logs"]
        for run_id in bare:
            if pruning.is_late:
                return False
            pruning.delete_logs(run_id)
            pruning.removed.logs_of_kept_runs += 1
        pruning.removed.runs_slimmed += _delete_events(pruning, bare, whole=False, logs=True)
        slim = [run_id for _, run_id, what in found if what == "details"]
        doomed = [run_id for _, run_id, what in found if what == "run"]
        pruning.removed.runs_slimmed += _delete_events(pruning, slim, whole=False)
        if doomed:
            # The run itself goes last: until then a crash leaves a run that the next day finds again, and no rows without one.
            _delete_events(pruning, doomed, whole=True, logs=True)
        for run_id in doomed:
            if pruning.is_late:
                return False
            pruning.delete_run(run_id)
            pruning.removed.runs += 1
    return False


def _delete_events(pruning: _Pruning, run_ids: list[str], *, whole: bool, logs: bool = False) -> int:
    """Returns of how many runs there were any."""
    runs, rows, size = pruning.one("history/delete_run_events", run_ids=run_ids, whole=whole, logs=logs)
    pruning.removed.event_rows += rows
    pruning.removed.bytes += size
    return int(runs)


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
