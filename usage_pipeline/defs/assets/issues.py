"""The sources `app/issues` and `app/comments`, and `stats/daily_issue_stats`, which counts what happened each day."""

from collections.abc import Sequence
from contextlib import closing
from datetime import date
from typing import Any

import dagster as dg

from usage_pipeline.defs.metadata import OWNERS, row_counts, table_metadata
from usage_pipeline.defs.partitions.calendar import STATS_BACKFILL_POLICY
from usage_pipeline.defs.partitions.metadata import about_partition
from usage_pipeline.defs.partitions.runs import Metadata, PartitionEvents, all_at_once
from usage_pipeline.defs.retries import IO_RETRY
from usage_pipeline.rollups.issue_stats import ISSUE_STATS_TABLE, IssueDay, replace_issue_stats
from usage_pipeline.settings import Settings
from usage_pipeline.storage.postgres import connect

ISSUES_KEY = dg.AssetKey(["app", "issues"])
COMMENTS_KEY = dg.AssetKey(["app", "comments"])
ISSUE_STATS_KEY = dg.AssetKey(["stats", "daily_issue_stats"])


def issue_sources() -> list[dg.AssetSpec]:
    """The tables that applications or `usage-pipeline load issues` write, not an asset."""
    about = {
        ISSUES_KEY: "Issues with their status and views. Table `app.issues`; a trigger keeps when an issue was resolved.",
        COMMENTS_KEY: "Comments on issues. Table `app.comments`.",
    }
    return [
        dg.AssetSpec(
            key,
            group_name="app",
            owners=OWNERS,
            kinds={"postgres"},
            description=description,
            metadata=table_metadata(".".join(key.path)),
        )
        for key, description in about.items()
    ]


def issue_stats_asset(partitions: dg.PartitionsDefinition[str]) -> dg.AssetsDefinition:
    """The daily asset. One statement makes all days of a run."""

    @dg.asset(
        key=ISSUE_STATS_KEY,
        deps=[ISSUES_KEY, COMMENTS_KEY],
        partitions_def=partitions,
        backfill_policy=STATS_BACKFILL_POLICY,
        group_name="stats",
        owners=OWNERS,
        kinds={"postgres"},
        description=f"Issues created, issues resolved and comments written per day. Table `{ISSUE_STATS_TABLE}`. A run makes "
        "each day again from `app.issues`, its history `app.issue_resolutions`, and `app.comments`. An old day counts the same "
        "whenever it is made, and a backfill is always safe, even over years.",
        metadata=table_metadata(ISSUE_STATS_TABLE),
        retry_policy=IO_RETRY,
    )
    def daily_issue_stats(context: dg.AssetExecutionContext, settings: dg.ResourceParam[Settings]) -> PartitionEvents:
        with closing(connect(settings)) as connection:

            def replace(keys: Sequence[str]) -> dict[str, Metadata]:
                first, last = (date.fromisoformat(keys[end]) for end in (0, -1))
                days = replace_issue_stats(connection, first, last, settings=settings)
                return {day.date.isoformat(): {**_metadata(day), **about(day.date)} for day in days}

            def about(day: date) -> Metadata:
                is_newest = day.isoformat() == context.partition_keys[-1]
                return about_partition(connection, ISSUE_STATS_TABLE, "date", day, is_newest=is_newest)

            yield from all_at_once(context, replace)

    return daily_issue_stats


def _metadata(day: IssueDay) -> dict[str, Any]:
    counts = {"created": day.created_count, "resolved": day.resolved_count, "comments": day.comment_count}
    return {**row_counts(1, int(day.is_changed), counts), "late_data": day.is_late}
