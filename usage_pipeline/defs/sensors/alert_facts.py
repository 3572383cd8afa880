"""Reads facts about runs, ticks and schedules from Dagster's own storage, for the alerts. The rules are in `alerting/`.

Each list has a bound, and says when it has more: what was not looked at is not over.
"""

import json
import re
from collections.abc import Collection, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg

from usage_pipeline.alerting.facts import (
    FailedRun,
    FailedTick,
    FailingTicks,
    OrchestrationFacts,
    SlowRun,
    StuckRun,
)
from usage_pipeline.alerting.run_rules import FAILURES_IN_A_ROW
from usage_pipeline.defs.sensors.asset_facts import failed_checks, stale_assets
from usage_pipeline.defs.sensors.mending import Repairs, assets_of, partitions_of

# A failure that nobody mended is not told for ever.
_FAILURES_COUNT = timedelta(days=7)
# A run may begin to be slow and end between two evaluations.
_JUST_ENDED = timedelta(seconds=90)
# A run begins within seconds, if nothing hinders it.
STUCK_AFTER = timedelta(minutes=15)
_RUNS_AT_ONCE, MOST_RUNS = 200, 3_000
_ERROR_LENGTH = 500
_CREDENTIALS = re.compile(r"://[^@/\s]*@")
_ENDED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
_UNDER_WAY = [dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
_WAITING = [dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTING]


def orchestration_facts(
    instance: dg.DagsterInstance,
    names: Collection[str],
    drain_sensors: Collection[str],
    now: datetime,
    *,
    schedules: Collection[str] = (),
    checks: Collection[dg.AssetCheckKey] = (),
    assets_with_policy: Collection[dg.AssetKey] = (),
) -> OrchestrationFacts:
    """The facts, by a few queries with limits. `names` are the sensors whose ticks count."""
    partly = set[str]()
    failures, is_all = _runs(
        instance, dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE], updated_after=now - _FAILURES_COUNT)
    )
    partly |= set() if is_all else {"failed-run"}
    waiting, is_all = _runs(instance, dg.RunsFilter(statuses=_WAITING))
    partly |= set() if is_all else {"stuck-run"}
    under_way, is_all = _runs(instance, dg.RunsFilter(statuses=_UNDER_WAY))
    partly |= set() if is_all else {"long-run", "stuck-run"}
    begun, is_all = _runs(instance, dg.RunsFilter(updated_after=now - STUCK_AFTER))
    partly |= set() if is_all else {"stuck-run"}
    return OrchestrationFacts(
        tuple(_failed_runs(instance, failures)),
        tuple(_slow_runs(under_way, begun, now)),
        tuple(_failing_ticks(instance, names, drain_sensors)),
        tuple(_stuck_runs(waiting, [*under_way, *begun], now)),
        tuple(_failed_ticks(instance, schedules)),
        failed_checks(instance, checks),
        stale_assets(instance, assets_with_policy),
        frozenset(partly),
    )


def _runs(instance: dg.DagsterInstance, wanted: dg.RunsFilter) -> tuple[list[dg.RunRecord], bool]:
    """These runs, newest first, at most MOST_RUNS, and whether these are all."""
    found: list[dg.RunRecord] = []
    while len(found) < MOST_RUNS:
        cursor = found[-1].dagster_run.run_id if found else None
        some = instance.get_run_records(wanted, limit=_RUNS_AT_ONCE, cursor=cursor)
        found += some
        if len(some) < _RUNS_AT_ONCE:
            return found, True
    return found, False


def failed_run_of(instance: dg.DagsterInstance, run: dg.DagsterRun, failed_at: datetime) -> FailedRun:
    """A failed run with the errors of its steps, or with the error of the run if no step has one."""
    kinds = {dg.DagsterEventType.STEP_FAILURE, dg.DagsterEventType.RUN_FAILURE}
    errors: dict[bool, str] = {}
    for entry in instance.all_logs(run.run_id, of_type=kinds):
        event = entry.get_dagster_event()
        is_step = event.event_type is dg.DagsterEventType.STEP_FAILURE
        data = event.step_failure_data if is_step else event.job_failure_data
        errors.setdefault(is_step, _innermost(data.error) if data.error else str(event.message))
    text = errors.get(True) or errors.get(False) or "no error was recorded"
    return FailedRun(run.run_id, _named(run), _target(run), failed_at, text, assets_of(run, instance))


def _failed_runs(instance: dg.DagsterInstance, failures: Sequence[dg.RunRecord]) -> Iterator[FailedRun]:
    """Failed runs, newest first, one for each target, of which something is not made yet."""
    newest: dict[tuple[str, str], dg.RunRecord] = {}
    for record in failures:
        newest.setdefault((_named(record.dagster_run), _target(record.dagster_run)), record)
    repairs = Repairs(instance, [*newest.values()])
    for record in newest.values():
        if not repairs.has_mended(record):
            yield failed_run_of(instance, record.dagster_run, _ended_at(record))


def _slow_runs(under_way: Sequence[dg.RunRecord], of_late: Sequence[dg.RunRecord], now: datetime) -> Iterator[SlowRun]:
    just_ended = [
        record
        for record in of_late
        if record.dagster_run.status in _ENDED and record.update_timestamp.timestamp() > (now - _JUST_ENDED).timestamp()
    ]
    for record in (*under_way, *just_ended):
        if record.start_time is not None:
            run, until = record.dagster_run, record.end_time or now.timestamp()
            yield SlowRun(run.run_id, _named(run), _target(run), until - record.start_time)


def _stuck_runs(waiting: Sequence[dg.RunRecord], others: Sequence[dg.RunRecord], now: datetime) -> Iterator[StuckRun]:
    """Runs that wait for long while no run of their job has begun: a long queue that moves is none of them."""
    since = (now - STUCK_AFTER).timestamp()
    moving = {
        _named(one.dagster_run)
        for one in others
        if one.start_time is not None and (one.start_time > since or one.dagster_run.status in _UNDER_WAY)
    }
    for record in waiting:
        run = record.dagster_run
        begun_at = (
            record.create_timestamp if run.status is not dg.DagsterRunStatus.STARTING else record.update_timestamp
        )
        seconds = now.timestamp() - begun_at.timestamp()
        is_moving = _named(run) in moving and run.status is not dg.DagsterRunStatus.STARTING
        if seconds > STUCK_AFTER.total_seconds() and not is_moving:
            yield StuckRun(run.run_id, _named(run), _target(run), run.status.value, seconds)


def _failed_ticks(instance: dg.DagsterInstance, schedules: Collection[str]) -> Iterator[FailedTick]:
    """Schedules whose newest tick that ended failed. Each asks once: they tick rarely, and nothing else tells."""
    for state in instance.all_instigator_state():
        if state.instigator_name not in schedules or not state.is_running:
            continue
        for tick in instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=FAILURES_IN_A_ROW):
            if tick.status.value == "STARTED":
                continue
            if tick.is_failure:
                problem = _innermost(tick.error) if tick.error else "no error was recorded"
                yield FailedTick(state.instigator_name, datetime.fromtimestamp(tick.timestamp, UTC), problem)
            break


def _failing_ticks(
    instance: dg.DagsterInstance, names: Collection[str], drain_sensors: Collection[str]
) -> Iterator[FailingTicks]:
    for state in instance.all_instigator_state():
        data = state.sensor_instigator_data
        if state.instigator_name not in names or not state.is_running or data is None:
            continue
        # The daemon sets this after a tick that did not fail. Each question for ticks costs a connection.
        has_failed = data.last_tick_success_timestamp is None
        failures, problem = _failures(instance, state) if has_failed else (0, "")
        is_drain = state.instigator_name in drain_sensors
        if is_drain and data.cursor:
            # A drain that a server made impossible is no failure to Dagster: its sensor counts these itself.
            cursor = json.loads(data.cursor)
            failures += cursor.get("failures", 0)
            problem = problem or cursor.get("problem", "")
        if failures:
            yield FailingTicks(state.instigator_name, failures, problem, is_drain)


def _failures(instance: dg.DagsterInstance, state: Any) -> tuple[int, str]:
    """How many of the newest ticks failed in a row, and why the last one did."""
    failures, problem = 0, ""
    for tick in instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=FAILURES_IN_A_ROW + 1):
        if tick.status.value == "STARTED":
            continue
        if not tick.is_failure:
            break
        failures += 1
        problem = problem or (_innermost(tick.error) if tick.error else "no error was recorded")
    return failures, problem


def _named(run: dg.DagsterRun) -> str:
    """The job of a run, or what it makes: Dagster's name for a job of chosen assets tells nobody anything."""
    if not run.job_name.startswith("__"):
        return run.job_name
    return _listed(assets_of(run)) or "an asset"


def _target(run: dg.DagsterRun) -> str:
    """The partitions of a run, or its assets if it has no partitions."""
    first, last = partitions_of(run)
    if first:
        return first if first == last else f"{first}...{last}"
    return _listed(assets_of(run)) or "all"


def _listed(assets: Sequence[str]) -> str:
    return ", ".join(assets[:3]) + (f" and {len(assets) - 3} more" if len(assets) > 3 else "")


def _ended_at(record: dg.RunRecord) -> datetime:
    return datetime.fromtimestamp(record.end_time or record.update_timestamp.timestamp(), UTC)


def _innermost(error: Any) -> str:
    """The first line of the error that Dagster's wrap, without credentials of an address."""
    while error.cause:
        error = error.cause
    line = (error.message.strip().splitlines() or [error.cls_name or "error"])[0]
    return _CREDENTIALS.sub("://…@", line)[:_ERROR_LENGTH]
