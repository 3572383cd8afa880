"""`ops/reconciliation`: compares what our recorder wrote with what is stored, and checks that nothing is missing."""

from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import dagster as dg

from usage_pipeline.alerting.facts import FallenOdometers
from usage_pipeline.alerting.reading import read_fallen_odometers
from usage_pipeline.defs.assets.merchants import MERCHANT_USAGE_KEY
from usage_pipeline.defs.assets.redis_sources import SOURCES, source_key
from usage_pipeline.defs.assets.snapshots import snapshot_key
from usage_pipeline.defs.checks.results import faults_result
from usage_pipeline.defs.metadata import OWNERS, table_metadata, table_rows
from usage_pipeline.defs.retries import IO_RETRY
from usage_pipeline.drain.rounds import ALL_FAMILIES
from usage_pipeline.reconciliation.balance import DayBalance
from usage_pipeline.reconciliation.comparison import ReconciliationReport, reconcile
from usage_pipeline.settings import Settings
from usage_pipeline.storage.postgres import connect
from usage_pipeline.storage.table_profile import profile_table

RECONCILIATION_KEY = dg.AssetKey(["ops", "reconciliation"])
_TABLE = "ops.reconciliation"
# The newest days say what is going on; all of them are in the table.
_SHOWN_ROWS = 20
_COLUMNS = (
    "recorded",
    "stored",
    "live",
    "claimed",
    "dead",
    "duplicates",
    "carried",
    "difference",
    "missing",
    "forgotten",
    "counted_twice",
    "corrected",
    "discarded",
)
_CHECK = dg.AssetCheckSpec(
    "nothing_is_missing",
    asset=RECONCILIATION_KEY,
    description="Everything that our recorder wrote in the last 34 days is stored, waits in Redis, or is a dead letter. Other "
    "writers do not record what they write, so it makes the difference negative. That is no fault.",
)
_FALLS = dg.AssetCheckSpec(
    "redis_did_not_go_back",
    asset=RECONCILIATION_KEY,
    description="No odometer fell in the last day. If one falls, Redis came back from an old file, or lost keys.",
)


@dg.asset(
    key=RECONCILIATION_KEY,
    deps=[*map(source_key, SOURCES), *map(snapshot_key, ALL_FAMILIES), MERCHANT_USAGE_KEY],
    group_name="ops",
    owners=OWNERS,
    kinds={"postgres", "redis"},
    description="For each family and day: how much our recorder says that it wrote to Redis, and how much of it is stored, "
    f"waits or was refused. Table `{_TABLE}`. A `difference` above 0 is usage that two looks did not find. Below 0, other "
    "writers wrote, too.",
    metadata=table_metadata(_TABLE),
    check_specs=[_CHECK, _FALLS],
    retry_policy=IO_RETRY,
)
def reconciliation(settings: dg.ResourceParam[Settings]) -> dg.MaterializeResult:  # type: ignore[type-arg]  # dagster asks for it bare
    report = reconcile(settings)
    with closing(connect(settings)) as connection:
        metadata = {**_metadata(report), **table_rows(_TABLE, profile_table(connection, _TABLE))}
        checks = [_nothing_is_missing(report), _no_falls(read_fallen_odometers(connection, datetime.now(UTC)))]
    return dg.MaterializeResult(metadata=metadata, check_results=checks)


def _nothing_is_missing(report: ReconciliationReport) -> dg.AssetCheckResult:
    faults = [
        f"{row.family} of {row.usage_date}: {row.missing:,} of {row.recorded:,} recorded {row.measure} are missing"
        for row in report.missing
    ]
    looked = {"rows_looked_at": len(report.rows)}
    return faults_result(faults, name=_CHECK.name, severity=dg.AssetCheckSeverity.ERROR, numbers=looked)


def _no_falls(fallen: Sequence[FallenOdometers]) -> dg.AssetCheckResult:
    faults = [
        f"{one.family}: at {one.fallen_at:%Y-%m-%d %H:%M %Z} Redis had forgotten {one.forgotten:,} of the days from "
        f"{one.first_day} to {one.last_day}"
        for one in fallen
    ]
    return faults_result(faults, name=_FALLS.name, severity=dg.AssetCheckSeverity.WARN)


def _metadata(report: ReconciliationReport) -> dict[str, Any]:
    newest = sorted(report.rows, key=lambda row: row.usage_date, reverse=True)[:_SHOWN_ROWS]
    schema = dg.TableSchema(
        [dg.TableColumn("day"), dg.TableColumn("family"), *(dg.TableColumn(name, type="int") for name in _COLUMNS)]
    )
    return {
        "rows": len(report.rows),
        "looks": report.looks,
        "missing": sum(row.missing for row in report.rows),
        "forgotten_by_redis": sum(row.forgotten for row in report.rows),
        "counted_twice": sum(row.counted_twice for row in report.rows),
        "not_recorded_by_us": sum(max(0, -row.difference) for row in report.rows),
        "newest_days": dg.MetadataValue.table([_record(row) for row in newest], schema),
    }


def _record(row: DayBalance) -> dg.TableRecord:
    counts = {name: getattr(row, name) for name in _COLUMNS}
    return dg.TableRecord({"day": row.usage_date.isoformat(), "family": row.family, **counts})
