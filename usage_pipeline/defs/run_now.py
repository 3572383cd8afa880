"""Runs jobs in this process, for the demo, on the Dagster instance that the UI shows."""

import logging
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import dagster as dg

from usage_pipeline.defs.assets.windows import window_partition
from usage_pipeline.defs.jobs import because, daily_tables, issue_stats, merchant_usage, ranking_jobs, window_jobs
from usage_pipeline.defs.partitions.calendar import window_partitions
from usage_pipeline.rollups.calendar import GRAINS, day_window, hour_window, hours_of, month_of, week_of, window_on
from usage_pipeline.settings import Settings

# What fails is logged here, unless somebody stopped it.
_QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
# What the UI shows under "Launched by". Without it, such a run is "Manually launched".
_LAUNCHED_BY = {"user": "demo"}

log = logging.getLogger(__name__)


def materialize_days(
    defs: dg.Definitions,
    settings: Settings,
    *,
    counter_days: Sequence[date],
    event_days: Sequence[date],
    hours_from: date,
    issue_days: tuple[date, date],
    home: Path,
) -> bool:
    """Makes these days again, from the first to the last, in the daily assets of counters and in those of events with their
    weeks and months. True when every run succeeded.

    Hours are those of the days from `hours_from` on. It also makes the issue statistics from the first to the last of
    `issue_days`, and the rankings of the last two days. `home` is a folder with dagster.yaml, which reads the environment of
    this process. Raises KeyboardInterrupt where a signal ended a run: Dagster takes the signals meanwhile, and only fails it.
    """
    with dg.DagsterInstance.from_config(str(home)) as instance:
        return all(
            _succeeded(
                defs.resolve_job_def(name).execute_in_process(
                    tags={
                        "dagster/asset_partition_range_start": first,
                        "dagster/asset_partition_range_end": last,
                        **because("made by the demo"),
                        **_LAUNCHED_BY,
                    },
                    instance=instance,
                    run_config=_QUIET,
                    raise_on_error=False,
                )
            )
            for name, first, last in (
                *_ranges_of_counters(counter_days),
                *_ranges_of_events(settings, event_days, hours_from),
                *_ranges_of_stats([*counter_days, *event_days], issue_days),
            )
        )


def _succeeded(result: dg.ExecuteInProcessResult) -> bool:
    for event in result.all_events:
        reason = event.job_failure_data.failure_reason if event.is_job_failure else None
        if reason is not None and reason.value == "UNEXPECTED_TERMINATION":
            raise KeyboardInterrupt
    for event in result.all_events:
        error = event.step_failure_data.error if event.is_step_failure else None
        if error is not None:
            log.error("%s: %s", event.step_key, (error.cause or error).message.strip())
    return result.success


def _ranges_of_counters(days: Sequence[date]) -> Iterator[tuple[str, str, str]]:
    """Job, first and last partition of each run. The ranges go from the first to the last of the days."""
    if not days:
        return
    for job in (daily_tables, merchant_usage):
        yield job.name, days[0].isoformat(), days[-1].isoformat()


def _ranges_of_events(settings: Settings, days: Sequence[date], hours_from: date) -> Iterator[tuple[str, str, str]]:
    if not days:
        return
    zone, partitions, now = settings.timezone, window_partitions(settings), datetime.now(UTC)
    for grain in GRAINS:
        if grain == "hour":
            hours = [
                hour_window(hour, zone) for day in days if day >= hours_from for hour in hours_of(day_window(day, zone))
            ]
            closed = [hour for hour in hours if hour.is_closed(now)]
            if not closed:
                continue
            first, last = closed[0], closed[-1]
        else:
            begins = {"day": lambda day: day, "week": week_of, "month": month_of}[grain]
            first, last = (window_on(grain, begins(day), zone) for day in (days[0], days[-1]))
        keys = [window_partition(grain, partitions[grain], window) for window in (first, last)]
        if keys[0] and keys[1]:
            yield window_jobs[grain].name, keys[0], keys[1]


def _ranges_of_stats(days: Sequence[date], issue_days: tuple[date, date]) -> Iterator[tuple[str, str, str]]:
    """Job, first and last partition of statistics and rankings. They come after the days, from which rankings are made."""
    yield issue_stats.name, issue_days[0].isoformat(), issue_days[1].isoformat()
    newest = max(*days, *issue_days)
    for job in ranking_jobs.values():
        yield job.name, (newest - timedelta(days=1)).isoformat(), newest.isoformat()
