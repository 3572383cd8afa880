"""The schedules of reports: in the morning after a week or month, when its last day is rolled up."""

from collections.abc import Iterator

import dagster as dg

from usage_pipeline.defs.assets.reports import REPORT_GRAINS
from usage_pipeline.defs.assets.windows import window_partition
from usage_pipeline.defs.jobs import one_at_a_time, report_jobs
from usage_pipeline.defs.partitions.calendar import report_partitions
from usage_pipeline.rollups.calendar import Grain
from usage_pipeline.rollups.due_windows import closed_windows
from usage_pipeline.settings import Settings

_CRONS = {"week": "0 6 * * 1", "month": "10 6 1 * *"}


def report_schedules(settings: Settings) -> list[dg.ScheduleDefinition]:
    """One for weeks and one for months, in USAGE_TIMEZONE."""
    return [_report_schedule(grain, settings) for grain in REPORT_GRAINS]


def _report_schedule(grain: Grain, settings: Settings) -> dg.ScheduleDefinition:
    partitions = report_partitions(settings)[grain]
    job = report_jobs[grain]

    @dg.schedule(
        name=f"report_of_{grain}",
        job=job,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=f"Makes the report of the {grain} that ended.",
        cron_schedule=_CRONS[grain],
        execution_timezone=settings.usage_timezone,
    )
    def report(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest]:
        [window] = closed_windows(grain, context.scheduled_execution_time, 1, settings.timezone)
        key = window_partition(grain, partitions, window)
        if key is not None:
            yield dg.RunRequest(run_key=f"{grain}:{key}", partition_key=key, tags=one_at_a_time(job.name, key))

    return report
