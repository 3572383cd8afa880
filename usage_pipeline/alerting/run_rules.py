"""The rules about what Dagster does: runs that fail or take long, sensors that fail."""

from collections.abc import Iterator

from usage_pipeline.alerting.alert import Alert
from usage_pipeline.alerting.facts import FailedRun, OrchestrationFacts
from usage_pipeline.settings import Settings
from usage_pipeline.texts import counted

FAILURES_IN_A_ROW = 3


def failed_run(run: FailedRun) -> Alert:
    """The alert of one failed run. The sensor `failed_runs` sends it at once."""
    return Alert(
        "failed-run",
        f"failed-run:{run.job}:{run.target}",
        "failure",
        f"Run of {run.job} failed",
        f"Run {run.run_id} of {run.job} ({run.target}) failed at {run.failed_at:%Y-%m-%d %H:%M:%S %Z}: {run.error}",
        "Open the run in the UI, correct the cause, and choose Re-execute. What it replaces is safe to repeat. The alert "
        "clears when a run of the same job and partitions succeeds.",
    )


def failed_runs(orchestration: OrchestrationFacts, _: Settings) -> Iterator[Alert]:
    yield from map(failed_run, orchestration.failed_runs)


def long_runs(orchestration: OrchestrationFacts, settings: Settings) -> Iterator[Alert]:
    for run in orchestration.slow_runs:
        if run.seconds > settings.alert_long_run_seconds:
            yield Alert(
                "long-run",
                f"long-run:{run.run_id}",
                "warning",
                f"Run of {run.job} takes {counted(round(run.seconds / 60), 'minute')}",
                f"Run {run.run_id} of {run.job} ({run.target}) has taken {run.seconds:.0f} s so far, "
                f"more than {settings.alert_long_run_seconds} s.",
                "Look in the UI which step it is at. A backfill of many days may really take that long. If the run waits for a "
                "lock or a server, you can safely terminate it and run it again.",
            )


def failed_drains(orchestration: OrchestrationFacts, _: Settings) -> Iterator[Alert]:
    for ticks in orchestration.ticks:
        if ticks.failures < FAILURES_IN_A_ROW:
            continue
        if ticks.is_drain:
            yield Alert(
                "failed-drains",
                f"failed-drains:{ticks.name}",
                "failure",
                f"{ticks.name} failed {ticks.failures} times in a row",
                f"The last {ticks.failures} drains of {ticks.name} failed: {ticks.problem}",
                "Check whether PostgreSQL and Redis answer (/healthz). Nothing is lost while the counters wait in Redis: for 7 "
                "days if our recorder wrote them, else as long as their writers set. The drain goes on by itself.",
            )


def failed_ticks(orchestration: OrchestrationFacts, _: Settings) -> Iterator[Alert]:
    for ticks in orchestration.ticks:
        if ticks.failures >= FAILURES_IN_A_ROW and not ticks.is_drain:
            yield Alert(
                "failed-ticks",
                f"failed-ticks:{ticks.name}",
                "failure",
                f"{ticks.name} failed {ticks.failures} times in a row",
                f"The last {ticks.failures} ticks of {ticks.name} failed: {ticks.problem}",
                "Open the sensor under Automation in the UI: the tick has the whole error. The sensor goes on by itself when "
                "the cause is corrected.",
            )
