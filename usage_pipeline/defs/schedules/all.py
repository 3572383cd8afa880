"""All schedules. Each is on by default."""

from collections.abc import Iterator
from datetime import timedelta

import dagster as dg

from usage_pipeline.defs.jobs import (
    daily_tables,
    external_posts,
    history,
    merchant_usage,
    observe_sources,
    one_at_a_time,
    storage_lifecycle,
)
from usage_pipeline.defs.schedules.checks import check_schedules
from usage_pipeline.defs.schedules.reports import report_schedules
from usage_pipeline.defs.schedules.stats import stats_schedules
from usage_pipeline.defs.schedules.windows import window_schedules
from usage_pipeline.settings import Settings
from usage_pipeline.storage.lifecycle.report import SCHEDULE as LIFECYCLE_SCHEDULE


def schedules(settings: Settings) -> list[dg.ScheduleDefinition]:
    """All schedules: counters, Redis sources, storage lifecycle, windows of events, reports, statistics, rankings, checks."""
    cron, timezone = settings.aggregation_cron, settings.usage_timezone

    @dg.schedule(
        name="merchant_usage_hourly",
        job=merchant_usage,
        default_status=dg.DefaultScheduleStatus.RUNNING
        if settings.enable_usage_aggregation
        else dg.DefaultScheduleStatus.STOPPED,
        description="Stores the merchant counters of today and yesterday, and those of earlier days that grew since "
        "(USAGE_AGGREGATION_INTERVAL).",
        cron_schedule=cron,
        execution_timezone=timezone,
    )
    def merchant_usage_hourly(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest]:
        yield from _today_and_yesterday(context, settings, merchant_usage.name)

    @dg.schedule(
        name="daily_tables_hourly",
        job=daily_tables,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Makes today and yesterday again in usage/*_daily. The sensor `late_days` handles older days that change.",
        cron_schedule=cron,
        execution_timezone=timezone,
    )
    def daily_tables_hourly(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest]:
        yield from _today_and_yesterday(context, settings, daily_tables.name)

    observe = dg.ScheduleDefinition(
        name="observe_sources_hourly",
        job=observe_sources,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Counts the keys and items that wait in Redis.",
        cron_schedule=cron,
        execution_timezone=timezone,
    )
    lifecycle = dg.ScheduleDefinition(
        name="storage_lifecycle_daily",
        job=storage_lifecycle,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Creates partitions for the next days, and archives and drops old ones, after the roll-ups of the night.",
        cron_schedule=LIFECYCLE_SCHEDULE,
        execution_timezone=timezone,
    )
    pruning = dg.ScheduleDefinition(
        name="history_daily",
        job=history,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Removes old runs and events from Dagster's own history (RUN_HISTORY_DAYS, EVENT_HISTORY_DAYS).",
        cron_schedule="15 5 * * *",
        execution_timezone=timezone,
    )
    posts = dg.ScheduleDefinition(
        name="external_posts_hourly",
        job=external_posts,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Fetches the posts of the external API (EXTERNAL_POST_IDS).",
        cron_schedule="40 * * * *",
        execution_timezone=timezone,
    )
    regular = [merchant_usage_hourly, daily_tables_hourly, observe, lifecycle, pruning, posts]
    return [
        *regular,
        *window_schedules(settings),
        *report_schedules(settings),
        *stats_schedules(settings),
        *check_schedules(settings),
    ]


def _today_and_yesterday(
    context: dg.ScheduleEvaluationContext, settings: Settings, job: str
) -> Iterator[dg.RunRequest]:
    """One run for each of the two days, counted from the scheduled time: a late tick may come after midnight."""
    scheduled = context.scheduled_execution_time
    today = scheduled.astimezone(settings.timezone).date()
    for day in (today - timedelta(days=1), today):
        if day >= settings.usage_start_date:
            yield dg.RunRequest(
                run_key=f"{scheduled:%Y-%m-%dT%H:%M}:{day}",
                partition_key=day.isoformat(),
                tags=one_at_a_time(job, day.isoformat()),
            )
