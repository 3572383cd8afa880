"""`usage/*_daily`: a partition for each day, made from the drained rows. A re-run or a backfill is always safe."""

from contextlib import closing
from datetime import date

import dagster as dg

from usage_pipeline.defs.assets.snapshots import snapshot_key
from usage_pipeline.defs.metadata import OWNERS, row_counts, table_metadata
from usage_pipeline.defs.partitions.calendar import BACKFILL_POLICY
from usage_pipeline.defs.partitions.metadata import about_partition
from usage_pipeline.defs.partitions.runs import Metadata, PartitionEvents, one_by_one
from usage_pipeline.defs.retries import IO_RETRY
from usage_pipeline.rollups.daily import DAILY_TABLES, DailyTable, current_day, replace_day
from usage_pipeline.settings import Settings
from usage_pipeline.storage.postgres import connect

_DESCRIPTIONS = {
    "api_key": "Usage per API key and day.",
    "provider": "Usage per API key, storage provider and day.",
    "token": "Usage per API token and day, summed over all server instances.",
}


def daily_key(family: str) -> dg.AssetKey:
    """The daily asset of a family."""
    return dg.AssetKey(["usage", next(daily.name for daily in DAILY_TABLES if daily.family == family)])


def daily_assets(partitions: dg.PartitionsDefinition[str]) -> list[dg.AssetsDefinition]:
    """One asset per daily table."""
    return [_daily_asset(daily, partitions) for daily in DAILY_TABLES]


def _daily_asset(daily: DailyTable, partitions: dg.PartitionsDefinition[str]) -> dg.AssetsDefinition:
    @dg.asset(
        key=daily_key(daily.family),
        deps=[snapshot_key(daily.family)],
        partitions_def=partitions,
        backfill_policy=BACKFILL_POLICY,
        group_name="usage",
        owners=OWNERS,
        kinds={"postgres"},
        description=f"{_DESCRIPTIONS[daily.family]} Table `{daily.table}`. A run makes each day again from the sums of "
        f"`{daily.raw_table}`. Unchanged data give the same numbers, and a backfill is always safe.",
        metadata=table_metadata(daily.table),
        retry_policy=IO_RETRY,
    )
    def daily_asset(context: dg.AssetExecutionContext, settings: dg.ResourceParam[Settings]) -> PartitionEvents:
        with closing(connect(settings)) as connection:

            def replace(key: str) -> Metadata:
                day, today = date.fromisoformat(key), current_day(settings.timezone)
                report = replace_day(connection, daily, day, today=today)
                is_newest = key == context.partition_keys[-1]
                about = about_partition(connection, daily.table, "usage_date", day, is_newest=is_newest)
                counts = row_counts(report.rows, report.changed_rows, report.sums)
                return {**counts, "late_data": report.is_late, "raw_rows_dropped": report.is_all_there_is, **about}

            yield from one_by_one(context, replace)

    return daily_asset
