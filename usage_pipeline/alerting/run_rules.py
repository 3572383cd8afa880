"""The rules about what Dagster does: runs that fail, take long or do not begin, sensors and schedules that fail."""

from collections.abc import Iterator

from usage_pipeline.alerting.alert import Alert
from usage_pipeline.alerting.facts import FailedRun, OrchestrationFacts
from usage_pipeline.alerting.links import automation_link, run_link
from usage_pipeline.settings import Settings
from usage_pipeline.texts import counted

FAILURES_IN_A_ROW = 3


def failed_run(run: FailedRun, settings: Settings) -> Alert:
    """The alert of one failed run. The sensor `failed_runs` sends it at once."""
    return Alert(
        "failed-run",
        f"failed-run:{run.job}:{run.target}",
        "failure",
        f"Run of {run.job} failed",
        f"Run {run.run_id} of {run.job} ({_whereof(run)}) failed at {run.failed_at:%Y-%m-%d %H:%M:%S %Z}: {run.error}",
        "Open the run in the UI, correct the cause, and choose Re-execute. What it replaces is safe to repeat. The alert "
        "clears when all that it was to make is made.",
        link=run_link(settings, run.run_id),
        ending="All that the run was to make was made since, or a week has passed.",
    )


def _whereof(run: FailedRun) -> str:
    """Partitions and assets, each once."""
    assets = ", ".join(run.assets[:3]) + (f" and {len(run.assets) - 3} more" if len(run.assets) > 3 else "")
    return ", ".join(dict.fromkeys(part for part in (run.target, assets) if part and part != run.job)) or "all"


def failed_runs(orchestration: OrchestrationFacts, settings: Settings) -> Iterator[Alert]:
    for run in orchestration.failed_runs:
        yield failed_run(run, settings)


def stuck_runs(orchestration: OrchestrationFacts, settings: Settings) -> Iterator[Alert]:
    for run in orchestration.stuck_runs:
        minutes = counted(round(run.seconds / 60), "minute")
        yield Alert(
            "stuck-run",
            f"stuck-run:{run.run_id}",
            "failure",
            f"Run of {run.job} has not begun for {minutes}",
            f"Run {run.run_id} of {run.job} ({run.target}) is {run.status} for {minutes}, and no other run of {run.job} has "
            "begun meanwhile.",
            "QUEUED: see under Runs which run holds its place (limits are in dagster.yaml), and whether the daemon lives; a "
            "run that hangs can be terminated. STARTING: the launcher has not started its process or container; see the log "
            "of the code server, or of the cluster. Terminate it and launch it again: that is safe.",
            link=run_link(settings, run.run_id),
        )


def failed_schedules(orchestration: OrchestrationFacts, settings: Settings) -> Iterator[Alert]:
    for tick in orchestration.failed_ticks:
        yield Alert(
            "failed-schedule",
            f"failed-schedule:{tick.name}",
            "failure",
            f"Schedule {tick.name} failed",
            f"The tick of schedule {tick.name} at {tick.failed_at:%Y-%m-%d %H:%M:%S %Z} failed: {tick.problem}",
            "Open the schedule under Automation in the UI: the tick has the whole error. What it should have started was not "
            "started: choose Test schedule, or materialize its assets. The alert clears when a tick succeeds.",
            link=automation_link(settings),
        )


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
                link=run_link(settings, run.run_id),
            )


def failed_drains(orchestration: OrchestrationFacts, settings: Settings) -> Iterator[Alert]:
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
                link=automation_link(settings),
            )


def failed_ticks(orchestration: OrchestrationFacts, settings: Settings) -> Iterator[Alert]:
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
                link=automation_link(settings),
            )
