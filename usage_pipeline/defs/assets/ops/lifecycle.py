"""`ops/storage_lifecycle`: creates partitions for the next days, compresses or archives old ones, drops the oldest."""

from contextlib import closing
from dataclasses import asdict
from typing import Any

import dagster as dg

from usage_pipeline.defs.assets.daily import daily_key
from usage_pipeline.defs.assets.snapshots import snapshot_key
from usage_pipeline.defs.assets.windows import window_key
from usage_pipeline.defs.metadata import OWNERS, table_metadata, table_rows
from usage_pipeline.defs.retries import IO_RETRY
from usage_pipeline.rollups.dropped.run import run_lifecycle
from usage_pipeline.settings import Settings
from usage_pipeline.storage.lifecycle.report import LifecycleReport
from usage_pipeline.storage.postgres import connect
from usage_pipeline.storage.table_profile import profile_table

LIFECYCLE_KEY = dg.AssetKey(["ops", "storage_lifecycle"])
_TABLE = "ops.archives"
# A first run over months of partitions has a line for each; the UI shows the first ones.
_SHOWN = 200


@dg.asset(
    key=LIFECYCLE_KEY,
    deps=[
        *map(daily_key, ("api_key", "provider", "token")),
        snapshot_key("event"),
        window_key("hour"),
        window_key("day"),
    ],
    group_name="ops",
    owners=OWNERS,
    kinds={"postgres", "parquet"},
    description="Creates partitions for the next days, compresses or archives partitions after COMPRESSION_AFTER_DAYS, and "
    "drops them after RETENTION_DAYS, but only when their roll-ups are complete. Table `ops.archives` lists the files, and "
    "`ops.dropped_spans` what was dropped. What lies before USAGE_START_DATE is rolled up here.",
    metadata=table_metadata(_TABLE),
    retry_policy=IO_RETRY,
)
def storage_lifecycle(context: dg.AssetExecutionContext, settings: dg.ResourceParam[Settings]) -> None:
    report = run_lifecycle(settings)
    context.log.info("%s; archive: %s", report.strategy, report.archive_place)
    with closing(connect(settings)) as connection:
        metadata = {**lifecycle_metadata(report), **table_rows(_TABLE, profile_table(connection, _TABLE))}
    if report.problems:
        raise dg.Failure("; ".join(report.problems[:10]), metadata=metadata, allow_retries=False)
    context.add_output_metadata(metadata)


def lifecycle_metadata(report: LifecycleReport) -> dict[str, Any]:
    """What the run did and what had to wait: counts, and a table of each kind that is not empty."""
    packed = [*report.compressed, *report.archived]
    metadata: dict[str, Any] = {
        "strategy": report.strategy,
        "archive": report.archive_place,
        "created": len(report.created),
        "compressed": len(report.compressed),
        "archived": len(report.archived),
        "archived_rows": sum(each.rows for each in report.archived),
        "bytes_before": sum(each.bytes_before for each in packed),
        "bytes_after": sum(each.bytes_after for each in packed),
        "restored": len(report.restored),
        "restored_rows": sum(each.rows or 0 for each in report.restored),
        "dropped": len(report.dropped),
        "waiting": len(report.waiting),
        "rolled_up_before_start": len(report.rolled_up),
        "problems": len(report.problems),
        "registry_rows_removed": report.registry_rows_removed,
        "leftover_files_removed": report.leftovers_removed,
    }
    tables = {
        "created_partitions": [{"chunk": name} for name in report.created],
        "packed_chunks": [asdict(each) for each in packed],
        "restored_chunks": [asdict(each) for each in report.restored],
        "dropped_chunks": [asdict(each) for each in report.dropped],
        "rolled_up_before_start_windows": [{"window": name} for name in report.rolled_up],
        "waiting_chunks": [asdict(each) for each in report.waiting],
    }
    for name, rows in tables.items():
        if rows:
            records = [
                dg.TableRecord({key: "" if value is None else value for key, value in row.items()})
                for row in rows[:_SHOWN]
            ]
            metadata[name] = dg.MetadataValue.table(records)
    return metadata
