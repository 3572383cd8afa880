"""Reads facts about runs and sensors from Dagster's own storage, for the alerts. The rules are in `alerting/`."""

import json
import re
from collections.abc import Collection, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg

from usage_pipeline.alerting.facts import FailedRun, FailingTicks, OrchestrationFacts, SlowRun
from usage_pipeline.alerting.run_rules import FAILURES_IN_A_ROW

# A failure that nobody mended is not repeated for ever.
_FAILURES_COUNT = timedelta(days=1)
# A run may begin to be slow and end between two evaluations.
_JUST_ENDED = timedelta(seconds=90)
_MOST_FAILED, _MOST_SUCCEEDED, _MOST_SLOW = 100, 500, 100
_ERROR_LENGTH = 500
_CREDENTIALS = re.compile(r"://[^@/\s]*@")
_ENDED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
_UNDER_WAY = [dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]


def orchestration_facts(
    instance: dg.DagsterInstance, names: Collection[str], drain_sensors: Collection[str], now: datetime
) -> OrchestrationFacts:
    """The facts, by a few queries with limits. `names` are the sensors whose ticks count."""
    return OrchestrationFacts(
        tuple(_failed_runs(instance, now)),
        tuple(_slow_runs(instance, now)),
        tuple(_failing_ticks(instance, names, drain_sensors)),
    )


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
    return FailedRun(run.run_id, run.job_name, _target(run), failed_at, text)


def _failed_runs(instance: dg.DagsterInstance, now: datetime) -> Iterator[FailedRun]:
    """Failed runs, newest first, one for each target. A later run of the same job and partitions that succeeds clears one."""
    since = dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE], updated_after=now - _FAILURES_COUNT)
    failed = list(instance.get_run_records(since, limit=_MOST_FAILED))
    seen: set[tuple[str, str]] = set()
    succeeded: dict[str, list[dg.RunRecord]] = {}
    for record in failed:
        run = record.dagster_run
        if (run.job_name, _target(run)) in seen:
            continue
        seen.add((run.job_name, _target(run)))
        if run.job_name not in succeeded:
            first = min(one.update_timestamp for one in failed if one.dagster_run.job_name == run.job_name)
            mending = dg.RunsFilter(job_name=run.job_name, statuses=[dg.DagsterRunStatus.SUCCESS], updated_after=first)
            succeeded[run.job_name] = list(instance.get_run_records(mending, limit=_MOST_SUCCEEDED))
        if not any(_mends(one, record) for one in succeeded[run.job_name]):
            yield failed_run_of(instance, run, _ended_at(record))


def _mends(success: dg.RunRecord, failure: dg.RunRecord) -> bool:
    """Whether a later run makes up for a failed one. A failed run of a range has made its other days, so a run of only the
    failed days is enough.
    """
    mended, failed = success.dagster_run, failure.dagster_run
    if _ended_at(success) < _ended_at(failure):
        return False
    if failed.asset_selection and not failed.asset_selection & (mended.asset_selection or failed.asset_selection):
        return False
    (first, last), (failed_first, failed_last) = _partitions(mended), _partitions(failed)
    return first <= failed_last and failed_first <= last


def _slow_runs(instance: dg.DagsterInstance, now: datetime) -> Iterator[SlowRun]:
    ended = dg.RunsFilter(statuses=_ENDED, updated_after=now - _JUST_ENDED)
    for runs in (dg.RunsFilter(statuses=_UNDER_WAY), ended):
        for record in instance.get_run_records(runs, limit=_MOST_SLOW):
            if record.start_time is not None:
                run, until = record.dagster_run, record.end_time or now.timestamp()
                yield SlowRun(run.run_id, run.job_name, _target(run), until - record.start_time)


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


def _target(run: dg.DagsterRun) -> str:
    """The partitions of a run, or its assets if it has no partitions."""
    first, last = _partitions(run)
    if first:
        return first if first == last else f"{first}...{last}"
    assets = sorted(key.to_user_string() for key in run.asset_selection or ())
    return ", ".join(assets[:3]) + (f" and {len(assets) - 3} more" if len(assets) > 3 else "") or "all"


def _partitions(run: dg.DagsterRun) -> tuple[str, str]:
    """First and last partition; empty for a run without partitions."""
    only = run.tags.get("dagster/partition", "")
    return (
        run.tags.get("dagster/asset_partition_range_start", only),
        run.tags.get("dagster/asset_partition_range_end", only),
    )


def _ended_at(record: dg.RunRecord) -> datetime:
    return datetime.fromtimestamp(record.end_time or record.update_timestamp.timestamp(), UTC)


def _innermost(error: Any) -> str:
    """The first line of the error that Dagster's wrap, without credentials of an address."""
    while error.cause:
        error = error.cause
    line = (error.message.strip().splitlines() or [error.cls_name or "error"])[0]
    return _CREDENTIALS.sub("://…@", line)[:_ERROR_LENGTH]
