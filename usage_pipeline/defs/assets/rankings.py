"""`stats/popular_*`: the ten most popular for each date, and their copies in Redis. One definition makes them all."""

from collections.abc import Sequence
from contextlib import closing
from datetime import date
from typing import Any

import dagster as dg

from usage_pipeline.defs.metadata import OWNERS, null_shares, plot_metadata, row_counts, table_metadata
from usage_pipeline.defs.partitions.calendar import STATS_BACKFILL_POLICY
from usage_pipeline.defs.partitions.runs import Metadata, PartitionEvents, all_at_once
from usage_pipeline.defs.retries import IO_RETRY
from usage_pipeline.plots.series import ranking_picture
from usage_pipeline.rollups.ranking_cache import publish_current
from usage_pipeline.rollups.rankings import (
    RANKING_DAYS,
    RANKINGS,
    Ranking,
    RankingReport,
    read_ranking,
    replace_rankings,
)
from usage_pipeline.settings import Settings
from usage_pipeline.storage.postgres import connect


def ranking_key(ranking: Ranking) -> dg.AssetKey:
    """The asset of a ranking."""
    return dg.AssetKey(ranking.table.split("."))


def is_of_issues(ranking: Ranking) -> bool:
    """Whether the partitions of the ranking begin at STATS_START_DATE, not USAGE_START_DATE: issues are older than usage."""
    return "app.issues" in ranking.source_tables


def ranking_assets(
    usage_days: dg.PartitionsDefinition[str], stats_days: dg.PartitionsDefinition[str]
) -> list[dg.AssetsDefinition]:
    """One asset per ranking."""
    return [_ranking_asset(ranking, stats_days if is_of_issues(ranking) else usage_days) for ranking in RANKINGS]


def _dep(table: str) -> dg.AssetDep:
    key = dg.AssetKey(table.split("."))
    if key.path[0] == "app":
        return dg.AssetDep(key)
    # The days before the first partition have no usage.
    window = dg.TimeWindowPartitionMapping(start_offset=1 - RANKING_DAYS, allow_nonexistent_upstream_partitions=True)
    return dg.AssetDep(key, partition_mapping=window)


def _ranking_asset(ranking: Ranking, partitions: dg.PartitionsDefinition[str]) -> dg.AssetsDefinition:
    sources = " and ".join(f"`{table}`" for table in ranking.source_tables)

    @dg.asset(
        key=ranking_key(ranking),
        deps=[_dep(table) for table in ranking.source_tables],
        partitions_def=partitions,
        backfill_policy=STATS_BACKFILL_POLICY,
        group_name="stats",
        owners=OWNERS,
        kinds={"postgres", "redis"},
        description=f"{ranking.title}: the ten best of the seven days up to a date. Table `{ranking.table}`. A run makes each "
        f"date again from {sources}, and writes that of today to Redis as `{ranking.cache_key}`.",
        metadata=table_metadata(ranking.table),
        retry_policy=IO_RETRY,
    )
    def ranking_asset(context: dg.AssetExecutionContext, settings: dg.ResourceParam[Settings]) -> PartitionEvents:
        with closing(connect(settings)) as connection:

            def replace(keys: Sequence[str]) -> dict[str, Metadata]:
                days = [date.fromisoformat(key) for key in keys]
                reports = replace_rankings(connection, ranking, days, settings=settings)
                problem = publish_current(connection, ranking, days, settings=settings)
                if problem:
                    context.log.warning(
                        f"Redis did not take {ranking.cache_key}; readers get it from PostgreSQL: {problem}"
                    )
                found = {one.ranking_date.isoformat(): _counts(ranking, one) for one in reports}
                # Told once, with the last date: the newest event is what the UI shows.
                entries = read_ranking(connection, ranking, days[-1])
                pictures = ranking_picture(f"{ranking.title}, {days[-1]}", entries)
                found[keys[-1]] |= {"cache": problem or "up to date", **_entries(entries), **plot_metadata(pictures)}
                return {**found}

            yield from all_at_once(context, replace)

    return ranking_asset


def _counts(ranking: Ranking, report: RankingReport) -> dict[str, Any]:
    return {**row_counts(report.rows, report.changed_rows, {}), **null_shares(ranking.table, {})}


def _entries(entries: list[dict[str, Any]]) -> dict[str, Any]:
    shown = [{name: value for name, value in entry.items() if name != "rankingDate"} for entry in entries]
    return {"ranking": dg.MetadataValue.table([dg.TableRecord(entry) for entry in shown])} if shown else {}
