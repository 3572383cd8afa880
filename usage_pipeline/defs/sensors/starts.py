"""The sensor that looks at everything once after a start, so that the first picture in the UI is a true one."""

from datetime import UTC, datetime

import dagster as dg

from usage_pipeline.defs.jobs import because, counter_checks, freshness, observe_sources, reconcile

JOBS = (observe_sources, reconcile, counter_checks, freshness)
_INTERVAL_SECONDS = 56
# Schedules look every hour. After a shorter pause, what they last saw is still on the page.
_PAUSE_SECONDS = 900


def first_looks_sensor() -> dg.SensorDefinition:
    """The sensor `first_looks`. Its cursor is the time of its last tick: without one, or after a pause, it asks for runs."""

    @dg.sensor(
        name="first_looks",
        jobs=[*JOBS],
        minimum_interval_seconds=_INTERVAL_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Observes the sources and runs the hourly checks once after a start, and after a pause of 15 minutes.",
    )
    def first_looks(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        now = datetime.now(UTC)
        cursor = f"{now.timestamp():.0f}"
        if context.cursor and now.timestamp() - float(context.cursor) < _PAUSE_SECONDS:
            return dg.SensorResult(skip_reason="There was no pause.", cursor=cursor)
        why = because("first look after the start")
        requests = [dg.RunRequest(job_name=job.name, run_key=f"{job.name}:{cursor}", tags=why) for job in JOBS]
        return dg.SensorResult(run_requests=requests, cursor=cursor)

    return first_looks
