"""The schedules of issue statistics and rankings."""

from collections.abc import Iterator
from datetime import date, datetime, timedelta

import dagster as dg

from usage_pipeline.defs.jobs import issue_stats, one_at_a_time, ranking_jobs
from usage_pipeline.rollups.due_windows import days_to_roll_up
from usage_pipeline.settings import Settings

# After the hourly roll-ups that they rank. Meanwhile the sensor `current_rankings` keeps today's, and their copies in Redis.
_AFTER_THE_ROLL_UPS = "15 * * * *"


def stats_schedules(settings: Settings) -> list[dg.ScheduleDefinition]:
    """Yesterday's statistics by STATS_CRON_SCHEDULE, and the rankings of today every hour, in USAGE_TIMEZONE."""
    zone = settings.timezone

    @dg.schedule(
        name="issue_stats_daily",
        job=issue_stats,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Counts yesterday's issues and comments (STATS_CRON_SCHEDULE).",
        cron_schedule=settings.stats_cron_schedule,
        execution_timezone=settings.usage_timezone,
    )
    def yesterday(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest]:
        scheduled = context.scheduled_execution_time
        day = scheduled.astimezone(zone).date() - timedelta(days=1)
        if day >= settings.stats_start_date:
            yield _request(issue_stats.name, scheduled, day)

    return [yesterday, *(_ranking_schedule(settings, of_issues) for of_issues in ranking_jobs)]


def _ranking_schedule(settings: Settings, of_issues: bool) -> dg.ScheduleDefinition:
    job, zone = ranking_jobs[of_issues], settings.timezone
    start = settings.stats_start_date if of_issues else settings.usage_start_date

    @dg.schedule(
        name=f"{job.name}_hourly",
        job=job,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Ranks today so far. In the first hour of a day it also ranks yesterday. Between its runs "
        "the sensor `current_rankings` keeps today's up to date.",
        cron_schedule=_AFTER_THE_ROLL_UPS,
        execution_timezone=settings.usage_timezone,
    )
    def today(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest]:
        scheduled = context.scheduled_execution_time
        for day in days_to_roll_up(scheduled, zone):
            if day >= start:
                yield _request(job.name, scheduled, day)

    return today


def _request(job: str, scheduled: datetime, day: date) -> dg.RunRequest:
    return dg.RunRequest(
        run_key=f"{scheduled:%Y-%m-%dT%H:%M%z}:{day}",
        partition_key=day.isoformat(),
        tags=one_at_a_time(job, day.isoformat()),
    )
