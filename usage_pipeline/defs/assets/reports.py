"""`reports/*`: a week or month on one page, with its table. A re-run is safe, and tells nobody twice."""

from collections.abc import Mapping
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import dagster as dg
from pydantic import Field

from usage_pipeline.defs.assets.windows import partition_window
from usage_pipeline.defs.metadata import OWNERS, column_lineage, column_schema, plot_metadata
from usage_pipeline.defs.partitions.calendar import WINDOW_BACKFILL_POLICY
from usage_pipeline.defs.partitions.runs import Metadata, PartitionEvents, one_by_one
from usage_pipeline.defs.retries import IO_RETRY
from usage_pipeline.reports.contents import table_columns, tables_read
from usage_pipeline.reports.making import Dispatch, Made, make_report
from usage_pipeline.reports.report import Report
from usage_pipeline.rollups.calendar import Grain, Window
from usage_pipeline.rollups.due_windows import closed_windows
from usage_pipeline.settings import Settings
from usage_pipeline.storage.catalog import Column
from usage_pipeline.storage.postgres import connect

REPORT_GRAINS: tuple[Grain, ...] = ("week", "month")
_NAMES: Mapping[Grain, str] = {"week": "weekly", "month": "monthly"}


class ReportConfig(dg.Config):
    """Whether a run sends its reports."""

    send: bool | None = Field(
        default=None,
        description="true: send them to all of ALERT_URLS, also to those who have them. false: send none. Not given: with "
        "SEND_REPORTS, the newest report goes to those who have not got it, and older ones are not sent.",
    )


def report_key(grain: Grain) -> dg.AssetKey:
    """The asset of the reports of weeks or months."""
    return dg.AssetKey(["reports", _NAMES[grain]])


def report_assets(partitions: Mapping[Grain, dg.TimeWindowPartitionsDefinition]) -> list[dg.AssetsDefinition]:
    """One asset for weeks and one for months, each with a partition for every one that ended."""
    return [_report_asset(grain, partitions[grain]) for grain in REPORT_GRAINS]


def _report_asset(grain: Grain, partitions: dg.TimeWindowPartitionsDefinition) -> dg.AssetsDefinition:
    listed = table_columns(grain)

    @dg.asset(
        key=report_key(grain),
        deps=[dg.AssetKey(table.split(".")) for table in tables_read(grain)],
        partitions_def=partitions,
        backfill_policy=WINDOW_BACKFILL_POLICY,
        group_name="reports",
        owners=OWNERS,
        kinds={"postgres", "csv", "parquet"},
        description=f"The usage of a {grain} that ended: a table (CSV and Parquet) by team, service, provider and model "
        f"beside the {grain} before, and a page (PNG) with what it cost and why that changed. Its files are written to "
        "REPORTS_URL, and with SEND_REPORTS the newest one goes to ALERT_URLS, once.",
        metadata={
            **column_schema(Column(one.shown_name, one.kind, one.is_nullable, one.description) for one, _ in listed),
            **column_lineage({one.shown_name: sources for one, sources in listed}),
        },
        retry_policy=IO_RETRY,
    )
    def report_asset(
        context: dg.AssetExecutionContext, config: ReportConfig, settings: dg.ResourceParam[Settings]
    ) -> PartitionEvents:
        if config.send and not settings.alert_channels:
            raise dg.Failure("ALERT_URLS: expected an address to send reports to, came none", allow_retries=False)
        [newest] = closed_windows(grain, datetime.now(UTC), 1, settings.timezone)
        record = context.instance.get_run_record_by_id(context.run.run_id)
        asked_at = record.create_timestamp if record else datetime.now(UTC)
        with closing(connect(settings)) as connection:

            def replace(key: str) -> Metadata:
                window = partition_window(grain, partitions, key, settings)
                dispatch = _dispatch(config, settings, window, newest, asked_at)
                made = make_report(connection, settings, Report(window), dispatch)
                return _metadata(made, is_last=key == context.partition_keys[-1])

            yield from one_by_one(context, replace)

    return report_asset


def _dispatch(config: ReportConfig, settings: Settings, window: Window, newest: Window, asked_at: datetime) -> Dispatch:
    if config.send is None:
        return Dispatch(settings.send_reports and window == newest)
    # A retry of this run must not send again what its first try has sent.
    return Dispatch(config.send, since=asked_at)


def _metadata(made: Made, *, is_last: bool) -> dict[str, Any]:
    contents = made.contents
    [picture] = [content for name, content in made.files.items() if name.endswith(".png")]
    cost = contents.totals["cost_usd"]
    return {
        "dagster/partition_row_count": len(contents.rows),
        "as_of": contents.as_of.isoformat(),
        **({} if cost is None else {"cost_usd": float(cost)}),
        "requests": contents.totals["requests"] or 0,
        "files": ", ".join(made.files) if made.is_kept else "not kept: REPORTS_URL is not set",
        "sent_to": ", ".join(made.sent_to),
        # A backfill of years must not store a page for each of them in Dagster's own tables.
        **(plot_metadata({contents.report.title: picture}) if is_last else {}),
    }
