"""The schedules of reconciliation, freshness and checks of what drains write."""

import dagster as dg

from usage_pipeline.defs.jobs import counter_checks, freshness, reconcile
from usage_pipeline.settings import Settings


def check_schedules(settings: Settings) -> list[dg.ScheduleDefinition]:
    """Each runs once an hour, not at the time of the roll-ups or of another. Other checks run with their assets."""
    return [
        dg.ScheduleDefinition(
            name=f"{job.name}_hourly",
            job=job,
            default_status=dg.DefaultScheduleStatus.RUNNING,
            description=job.description,
            cron_schedule=cron,
            execution_timezone=settings.usage_timezone,
        )
        for job, cron in ((reconcile, "25 * * * *"), (freshness, "35 * * * *"), (counter_checks, "50 * * * *"))
    ]
