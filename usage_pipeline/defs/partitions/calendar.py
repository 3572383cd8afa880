"""The partitions of assets, in USAGE_TIMEZONE."""

from collections.abc import Mapping
from datetime import date

import dagster as dg

from usage_pipeline.rollups.calendar import Grain, month_of, week_of
from usage_pipeline.settings import Settings

_PARTITION_TAGS = ("dagster/partition", "dagster/asset_partition_range_start", "dagster/asset_partition_range_end")


def daily_partitions(settings: Settings) -> dg.DailyPartitionsDefinition:
    """Days from USAGE_START_DATE to today. Today is included, so that one can look at the running day."""
    return _days_from(settings.usage_start_date, settings)


def stats_partitions(settings: Settings) -> dg.DailyPartitionsDefinition:
    """Days from STATS_START_DATE to today."""
    return _days_from(settings.stats_start_date, settings)


def _days_from(start: date, settings: Settings) -> dg.DailyPartitionsDefinition:
    return dg.DailyPartitionsDefinition(start_date=start.isoformat(), timezone=settings.usage_timezone, end_offset=1)


def window_partitions(settings: Settings) -> Mapping[Grain, dg.TimeWindowPartitionsDefinition]:
    """Hours up to the last one that ended; days, weeks (from Monday) and months up to the running ones.

    The first week and the first month are the whole ones around USAGE_START_DATE.
    """
    start, zone = settings.usage_start_date, settings.usage_timezone
    return {
        "hour": dg.HourlyPartitionsDefinition(start_date=f"{start}-00:00", timezone=zone),
        "day": daily_partitions(settings),
        **_weeks_and_months(settings, end_offset=1),
    }


def report_partitions(settings: Settings) -> Mapping[Grain, dg.TimeWindowPartitionsDefinition]:
    """Weeks and months that ended."""
    return _weeks_and_months(settings, end_offset=0)


def _weeks_and_months(settings: Settings, *, end_offset: int) -> dict[Grain, dg.TimeWindowPartitionsDefinition]:
    """Up to so many that have not ended."""
    start, zone = settings.usage_start_date, settings.usage_timezone
    return {
        "week": dg.WeeklyPartitionsDefinition(
            start_date=week_of(start).isoformat(), day_offset=1, timezone=zone, end_offset=end_offset
        ),
        "month": dg.MonthlyPartitionsDefinition(
            start_date=month_of(start).isoformat(), timezone=zone, end_offset=end_offset
        ),
    }


def run_days(tags: Mapping[str, str]) -> list[date]:
    """The day of a run's partition, or the first and the last day of its range. A run without partitions has none."""
    return [date.fromisoformat(tags[tag][:10]) for tag in _PARTITION_TAGS if tag in tags]


# Days of counters take less time than the process of a run needs to start, so half a year is one run. A bad day fails none
# of its neighbours, see runs.py: the size is a matter of time alone, see benchmarks/orchestration.py.
BACKFILL_POLICY = dg.BackfillPolicy.multi_run(max_partitions_per_run=180)
# Days of usage events take about a second each: months go on side by side.
WINDOW_BACKFILL_POLICY = dg.BackfillPolicy.multi_run(max_partitions_per_run=30)
# Hours are quick; a run of a week of them takes a few seconds.
HOURLY_BACKFILL_POLICY = dg.BackfillPolicy.multi_run(max_partitions_per_run=7 * 24)
# Days of statistics and rankings are made by one statement a run: years are a handful of runs.
STATS_BACKFILL_POLICY = dg.BackfillPolicy.multi_run(max_partitions_per_run=366)
