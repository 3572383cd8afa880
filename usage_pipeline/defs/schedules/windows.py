"""The schedules that roll up windows of usage events: soon after a window ends, and several times while it runs."""

from collections.abc import Iterator
from datetime import timedelta

import dagster as dg

from usage_pipeline.defs.assets.windows import window_partition
from usage_pipeline.defs.jobs import one_at_a_time, window_jobs
from usage_pipeline.defs.partitions.calendar import window_partitions
from usage_pipeline.rollups.calendar import Grain, Window, day_window, month_of, week_of, window_on
from usage_pipeline.rollups.due_windows import closed_windows, days_to_roll_up
from usage_pipeline.settings import Settings

# Clients send in batches: most events of the last hour are there five minutes after it.
_AFTER_THE_HOUR = "5 * * * *"
_DAY_AFTER_ITS_HOUR = "10 * * * *"
# After the day's last roll-up, which follows midnight.
_WEEK_AFTER_ITS_DAY = "20 0 * * *"
_MONTH_AFTER_ITS_DAY = "25 0 * * *"


def window_schedules(settings: Settings) -> list[dg.ScheduleDefinition]:
    """One schedule for each grain, in USAGE_TIMEZONE. The sensor `late_windows` handles windows that change after their end."""
    partitions, zone = window_partitions(settings), settings.timezone

    def requests(context: dg.ScheduleEvaluationContext, grain: Grain, windows: list[Window]) -> Iterator[dg.RunRequest]:
        for window in windows:
            key = window_partition(grain, partitions[grain], window)
            if key is not None:
                run_key = f"{grain}:{key}:{context.scheduled_execution_time:%Y-%m-%dT%H:%M%z}"
                tags = one_at_a_time(window_jobs[grain].name, key)
                yield dg.RunRequest(run_key=run_key, partition_key=key, tags=tags)

    @dg.schedule(
        name="usage_hourly_after_the_hour",
        job=window_jobs["hour"],
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Rolls up the last hour that ended.",
        cron_schedule=_AFTER_THE_HOUR,
        execution_timezone=settings.usage_timezone,
    )
    def hours(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest]:
        yield from requests(context, "hour", closed_windows("hour", context.scheduled_execution_time, 1, zone))

    @dg.schedule(
        name="usage_daily_hourly",
        job=window_jobs["day"],
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Rolls up today so far. In the first hour after midnight it also rolls up yesterday.",
        cron_schedule=_DAY_AFTER_ITS_HOUR,
        execution_timezone=settings.usage_timezone,
    )
    def days(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest]:
        found = days_to_roll_up(context.scheduled_execution_time, zone)
        yield from requests(context, "day", [day_window(day, zone) for day in found])

    def of_yesterday(context: dg.ScheduleEvaluationContext, grain: Grain) -> Iterator[dg.RunRequest]:
        yesterday = context.scheduled_execution_time.astimezone(zone).date() - timedelta(days=1)
        first_day = week_of(yesterday) if grain == "week" else month_of(yesterday)
        yield from requests(context, grain, [window_on(grain, first_day, zone)])

    @dg.schedule(
        name="usage_weekly_daily",
        job=window_jobs["week"],
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Rolls up the week that yesterday is in: the running week, or on Mondays the week that just ended.",
        cron_schedule=_WEEK_AFTER_ITS_DAY,
        execution_timezone=settings.usage_timezone,
    )
    def weeks(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest]:
        yield from of_yesterday(context, "week")

    @dg.schedule(
        name="usage_monthly_daily",
        job=window_jobs["month"],
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Rolls up the month that yesterday is in: the running month, or on the 1st the month that just ended.",
        cron_schedule=_MONTH_AFTER_ITS_DAY,
        execution_timezone=settings.usage_timezone,
    )
    def months(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest]:
        yield from of_yesterday(context, "month")

    return [hours, days, weeks, months]
