"""`ops/landed_files`: files of usage events from the landing folder. Each materialization reads the files that wait."""

from contextlib import closing
from typing import Any

import dagster as dg
from pydantic import Field

from usage_pipeline.defs.metadata import OWNERS, table_metadata, table_rows
from usage_pipeline.defs.retries import IO_RETRY
from usage_pipeline.events.landing.folder import READ_KINDS, Landing, Look
from usage_pipeline.events.landing.reading import FileReport, ingest_landed
from usage_pipeline.settings import Settings
from usage_pipeline.storage.postgres import connect
from usage_pipeline.storage.table_profile import profile_table

LANDED_FILES = dg.AssetKey(["ops", "landed_files"])
# One run at a time (dagster.yaml): two would only wait for each other's files.
LANDING_TAG = {"usage_pipeline/landing": "1"}
BUDGET_SECONDS = 300.0
_TABLE = "ops.landed_files"
_SHOWN_FILES = 100


class LandedFilesConfig(dg.Config):
    """Which files to read, by their addresses below LANDING_URL. Without any: all that nobody wrote to for 10 seconds."""

    addresses: list[str] = Field(default_factory=list)


@dg.asset(
    key=LANDED_FILES,
    group_name="analytics",
    owners=OWNERS,
    kinds={"postgres", "file"},
    description="Files of usage events and message archives from LANDING_URL, each read once. Table `ops.landed_files`. A file "
    "that cannot be read moves to `broken/`, with its reason beside it. Rejected items become dead letters.",
    metadata=table_metadata(_TABLE),
    retry_policy=IO_RETRY,
)
def landed_files(
    context: dg.AssetExecutionContext, config: LandedFilesConfig, settings: dg.ResourceParam[Settings]
) -> dg.MaterializeResult[None]:
    reports = ingest_landed(settings, config.addresses, budget_seconds=BUDGET_SECONDS)
    for report in reports:
        if report.reason is not None:
            context.log.warning(f"{report.address} is {report.outcome}: {report.reason}")
        for note in report.notes:
            context.log.info(f"{report.address}: {note}")
        if report.fault is not None:
            context.log.warning(f"{report.address} was read and cannot be moved: {report.fault}")
    look = Landing(str(settings.landing_url)).look()
    if look.unread:
        context.log.warning(look.said)
    with closing(connect(settings)) as connection:
        rows = table_rows(_TABLE, profile_table(connection, _TABLE))
    return dg.MaterializeResult(metadata={**_metadata(reports), **_unread(look), **rows})


def _metadata(reports: list[FileReport]) -> dict[str, Any]:
    columns = ("outcome", "received", "inserted", "duplicates", "conflicts", "rejected", "passed")
    rows = [
        dg.TableRecord({"file": report.address, **{name: getattr(report, name) for name in columns}})
        for report in reports[:_SHOWN_FILES]
    ]
    schema = dg.TableSchema(
        [
            dg.TableColumn("file"),
            dg.TableColumn("outcome"),
            *(dg.TableColumn(name, type="int") for name in columns[1:]),
        ]
    )
    counts = {
        f"files_{outcome}": dg.MetadataValue.int(sum(report.outcome == outcome for report in reports))
        for outcome in ("stored", "broken", "failed")
    }
    counts["files_not_moved"] = dg.MetadataValue.int(sum(report.fault is not None for report in reports))
    items = {
        name: dg.MetadataValue.int(sum(getattr(report, name) for report in reports))
        for name in ("inserted", "duplicates", "conflicts", "rejected")
    }
    return {**counts, **items, **_notes(reports), "files": dg.MetadataValue.table(rows, schema)}


def _notes(reports: list[FileReport]) -> dict[str, Any]:
    """Rows of other formats that are no events by themselves, such as spans, and pages after which there are more."""
    notes = [dg.TableRecord({"file": report.address, "note": note}) for report in reports for note in report.notes]
    return {"notes": dg.MetadataValue.table(notes[:_SHOWN_FILES])} if notes else {}


def _unread(look: Look) -> dict[str, Any]:
    """What lies in the folder and is not read."""
    counted = {"files_not_read": dg.MetadataValue.int(len(look.unread))}
    if not look.unread:
        return counted
    # Whoever may write to the folder names the files: no Markdown.
    rows = [dg.TableRecord({"file": address}) for address in look.unread[:_SHOWN_FILES]]
    return {**counted, "not_read": dg.MetadataValue.table(rows), "what_is_read": READ_KINDS}
