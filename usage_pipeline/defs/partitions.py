"""The partitions of daily assets, in the time zone that bounds days."""

import dagster as dg

from usage_pipeline.settings import Settings


def daily_partitions(settings: Settings) -> dg.DailyPartitionsDefinition:
    """From USAGE_START_DATE to today; today is included, so that a running day can be looked at."""
    return dg.DailyPartitionsDefinition(
        start_date=settings.usage_start_date.isoformat(), timezone=settings.usage_timezone, end_offset=1
    )


# A range run handles up to 30 days: as fast as one single run for all, and a bad day is seen near itself.
BACKFILL_POLICY = dg.BackfillPolicy.multi_run(max_partitions_per_run=30)
