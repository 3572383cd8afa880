"""`analytics/usage_*`: usage events summed up by hour, day, week and month. A re-run or a backfill is always safe."""

from collections.abc import Mapping
from contextlib import closing
from datetime import date
from typing import Any

import dagster as dg

from usage_pipeline.checks.costs import tag_counts
from usage_pipeline.defs.assets.landing import LANDED_FILES
from usage_pipeline.defs.metadata import OWNERS, row_counts, table_metadata
from usage_pipeline.defs.partitions.calendar import HOURLY_BACKFILL_POLICY, WINDOW_BACKFILL_POLICY
from usage_pipeline.defs.partitions.metadata import about_partition
from usage_pipeline.defs.partitions.runs import Metadata, PartitionEvents, one_by_one
from usage_pipeline.defs.retries import IO_RETRY
from usage_pipeline.rollups.calendar import GRAINS, Grain, Window, hour_window, window_on
from usage_pipeline.rollups.lineage import COLUMN_LINEAGE
from usage_pipeline.rollups.window_tables import DAY_PARTS, WINDOW_TABLES
from usage_pipeline.rollups.windows import WindowReport, replace_window
from usage_pipeline.settings import Settings
from usage_pipeline.storage.catalog import stored_catalog
from usage_pipeline.storage.postgres import connect

EVENTS_KEY = dg.AssetKey(["analytics", "usage_events"])
_DESCRIPTIONS: Mapping[Grain, str] = {
    "hour": "A run makes each hour again from its events",
    "day": "A run makes each day again from its events, together with `analytics.usage_user_daily`, "
    "`usage_user_team_daily`, `usage_api_key_daily`, `usage_latency_daily`, `usage_latency_dimension_daily`, "
    "`usage_error_daily` and `usage_tag_daily`",
    "week": "A run makes each week again from the daily tables. Sums, distinct users and percentiles are exact, also after the "
    "events were archived",
    "month": "A run makes each month again from the daily tables. Sums, distinct users and percentiles are exact, also after "
    "the events were archived",
}
_PER = {"hour": "hour", "day": "day", "week": "week (from Monday)", "month": "month"}


def window_key(grain: Grain) -> dg.AssetKey:
    """The asset of a grain."""
    return dg.AssetKey(["analytics", WINDOW_TABLES[grain].name])


def usage_events_source() -> dg.AssetSpec:
    """The events themselves. HTTP requests and landed files store them, not an asset."""
    return dg.AssetSpec(
        EVENTS_KEY,
        deps=[LANDED_FILES],
        group_name="analytics",
        owners=OWNERS,
        kinds={"postgres"},
        description="LLM usage events, each stored once by its `event_id`. Table `analytics.usage_events`. HTTP requests and "
        "landed files store the events, and note the windows that must be made again.",
        metadata=table_metadata("analytics.usage_events"),
    )


def day_part_sources() -> list[dg.AssetSpec]:
    """The tables that the asset of days makes together with its own: not assets to be made, but views show them."""
    return [
        dg.AssetSpec(
            dg.AssetKey(part.table.split(".")),
            deps=[window_key("day"), *(dg.AssetKey(table.split(".")) for table in _read_by(part.table))],
            group_name="analytics",
            owners=OWNERS,
            kinds={"postgres"},
            description=f"{stored_catalog()[part.table].comment}. Table `{part.table}`. A run of `analytics/usage_daily` "
            "makes it.",
            metadata=table_metadata(part.table),
        )
        for part in DAY_PARTS
    ]


def _read_by(table: str) -> list[str]:
    return sorted({source.rpartition(".")[0] for sources in COLUMN_LINEAGE[table].values() for source in sources})


def window_assets(
    partitions: Mapping[Grain, dg.TimeWindowPartitionsDefinition],
) -> list[dg.AssetsDefinition]:
    """One asset per grain, each with its own partitions."""
    return [_window_asset(grain, partitions[grain]) for grain in GRAINS]


def partition_window(
    grain: Grain, partitions: dg.TimeWindowPartitionsDefinition, partition_key: str, settings: Settings
) -> Window:
    """The window of a partition. When a clock shows an hour twice, the key of the hour has its offset."""
    if grain == "hour":
        return hour_window(partitions.time_window_for_partition_key(partition_key).start, settings.timezone)
    return window_on(grain, date.fromisoformat(partition_key), settings.timezone)


def window_partition(grain: Grain, partitions: dg.TimeWindowPartitionsDefinition, window: Window) -> str | None:
    """The partition of a window; None when it lies before the first one."""
    if grain == "hour":
        key = partitions.get_partition_key_for_timestamp(window.start.timestamp())
        return key if window.start >= partitions.start else None
    return window.day.isoformat() if window.day >= partitions.start.date() else None


def _window_asset(grain: Grain, partitions: dg.TimeWindowPartitionsDefinition) -> dg.AssetsDefinition:
    table = WINDOW_TABLES[grain].table

    @dg.asset(
        key=window_key(grain),
        deps=[EVENTS_KEY if grain in ("hour", "day") else window_key("day")],
        partitions_def=partitions,
        backfill_policy=HOURLY_BACKFILL_POLICY if grain == "hour" else WINDOW_BACKFILL_POLICY,
        group_name="analytics",
        owners=OWNERS,
        kinds={"postgres"},
        description=f"Usage per {_PER[grain]}, team, service, provider and model. Table `{table}`. {_DESCRIPTIONS[grain]}. "
        "Unchanged data give the same numbers, and a backfill is always safe.",
        metadata=table_metadata(table),
        retry_policy=IO_RETRY,
    )
    def window_asset(context: dg.AssetExecutionContext, settings: dg.ResourceParam[Settings]) -> PartitionEvents:
        with closing(connect(settings)) as connection:

            def replace(key: str) -> Metadata:
                window = partition_window(grain, partitions, key, settings)
                report = replace_window(connection, window, settings=settings)
                value = window.start if grain == "hour" else window.day
                is_newest = key == context.partition_keys[-1]
                about = about_partition(connection, table, WINDOW_TABLES[grain].column, value, is_newest=is_newest)
                of_tags = _tag_metadata(tag_counts(connection, window.day)) if grain == "day" else {}
                return {**_metadata(report), **of_tags, **about}

            yield from one_by_one(context, replace)

    return window_asset


def _tag_metadata(counts: Mapping[str, tuple[int, int]]) -> dict[str, Any]:
    """Numbers of their own, so that the UI draws their course: a tag that gets ever more values is no tag to group by."""
    of_tags: dict[str, Any] = {}
    for tag, (values, other_requests) in counts.items():
        of_tags |= {f"tag_values_{tag}": values, f"tag_other_requests_{tag}": other_requests}
    return of_tags


def _metadata(report: WindowReport) -> dict[str, Any]:
    # A cost that is not known of any request is no 0.
    known = {name: value for name, value in report.sums.items() if value is not None}
    return {
        **row_counts(report.rows, report.changed_rows, known),
        "late_data": report.is_late,
        "price_version": report.price_version or "",
        # Requests whose events were dropped, and events that could not be added to such a window.
        "kept_requests": report.kept_requests,
        "uncounted_events": report.uncounted_events,
    }
