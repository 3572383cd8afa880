"""When it is looked whether all is well: reconciliation, checks of what drains write all the time, freshness."""

import dagster as dg

from usage_pipeline.defs.jobs import counter_checks, freshness, reconcile
from usage_pipeline.defs.schedules.windows import default_status
from usage_pipeline.settings import Settings


def check_schedules(settings: Settings) -> list[dg.ScheduleDefinition]:
    """Each once an hour, apart from the roll-ups and from each other. Other checks go with the runs of their assets."""
    status = default_status(settings.enable_job_scheduler)
    return [
        dg.ScheduleDefinition(
            name=f"{job.name}_hourly",
            job=job,
            default_status=status,
            description=job.description,
            cron_schedule=cron,
            execution_timezone=settings.usage_timezone,
        )
        for job, cron in ((reconcile, "25 * * * *"), (freshness, "35 * * * *"), (counter_checks, "50 * * * *"))
    ]
