"""`usage/merchant_usage`: absolute daily counters. A run reads them from Redis, and never removes them there."""

from collections.abc import Sequence
from contextlib import closing
from datetime import date
from typing import Any

import dagster as dg

from usage_pipeline.defs.assets.redis_sources import source_key
from usage_pipeline.defs.metadata import OWNERS, table_metadata
from usage_pipeline.defs.partitions.calendar import BACKFILL_POLICY
from usage_pipeline.defs.partitions.metadata import about_partition
from usage_pipeline.defs.partitions.runs import Metadata, PartitionEvents, all_at_once
from usage_pipeline.defs.retries import IO_RETRY
from usage_pipeline.merchants.aggregation import DayReport, aggregate
from usage_pipeline.rollups.daily import current_day
from usage_pipeline.settings import Settings
from usage_pipeline.storage.postgres import connect
from usage_pipeline.texts import counted

MERCHANT_USAGE_KEY = dg.AssetKey(["usage", "merchant_usage"])
_TABLE = "usage.merchant_usage"


def merchant_usage_asset(partitions: dg.PartitionsDefinition[str]) -> dg.AssetsDefinition:
    """The daily asset of merchant counters. All days of a run share one scan of Redis."""

    @dg.asset(
        key=MERCHANT_USAGE_KEY,
        deps=[source_key("merchant")],
        partitions_def=partitions,
        backfill_policy=BACKFILL_POLICY,
        group_name="usage",
        owners=OWNERS,
        kinds={"postgres"},
        description="Usage per merchant, metric and day. Table `usage.merchant_usage`. A run stores the value of the counter, "
        "but never lowers a stored value. A day whose counters have expired in Redis keeps its rows. The run of today also "
        "stores counters of earlier days that grew since, and materializes these days.",
        metadata=table_metadata(_TABLE),
        retry_policy=IO_RETRY,
    )
    def merchant_usage(context: dg.AssetExecutionContext, settings: dg.ResourceParam[Settings]) -> PartitionEvents:
        with closing(connect(settings)) as connection:

            def replace(keys: Sequence[str]) -> dict[str, Metadata]:
                days = [date.fromisoformat(key) for key in keys]
                # One run an hour is enough: the run of yesterday would read the same counters once more.
                late_from = settings.usage_start_date if current_day(settings.timezone) in days else None
                report = aggregate(settings, days, late_from=late_from)
                for late in report.late_days:
                    _note_late(context, late)
                return {day.day.isoformat(): {**_metadata(day), **about(day.day)} for day in report.days}

            def about(day: date) -> Metadata:
                is_newest = day.isoformat() == context.partition_keys[-1]
                return about_partition(connection, _TABLE, "date", day, is_newest=is_newest)

            yield from all_at_once(context, replace)

    return merchant_usage


def _note_late(context: dg.AssetExecutionContext, day: DayReport) -> None:
    """Materializes a day that this run is not about, since what it stores is new."""
    context.log.info(
        "counters of %s grew since it was aggregated: %s changed", day.day, counted(day.inserted + day.raised, "row")
    )
    context.log_event(
        dg.AssetMaterialization(context.asset_key, partition=day.day.isoformat(), metadata=_metadata(day))
    )


def _metadata(day: DayReport) -> dict[str, Any]:
    return {
        "dagster/partition_row_count": day.rows_stored_before + day.inserted,
        "keys_found": day.keys_found,
        "records_aggregated": day.records_aggregated,
        "changed_rows": day.inserted + day.raised,
        "regressions": day.regressions,
        "dead_letters": day.dead_letters,
        "has_expired": day.has_expired,
    }
