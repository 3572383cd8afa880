"""The asset check of each ranking. It has no partitions, and looks at the dates of its run."""

from collections.abc import Mapping
from contextlib import closing
from datetime import date, timedelta

import dagster as dg

from usage_pipeline.checks.numbers import rows_of_days
from usage_pipeline.checks.rankings import ranking_faults
from usage_pipeline.defs.assets.rankings import ranking_key
from usage_pipeline.defs.checks.results import CHECK_SECONDS, faults_result
from usage_pipeline.defs.partitions.calendar import run_days
from usage_pipeline.rollups.daily import current_day
from usage_pipeline.rollups.rankings import RANKINGS, Ranking
from usage_pipeline.settings import Settings
from usage_pipeline.storage.postgres import connect


def ranking_asset_checks() -> list[dg.AssetChecksDefinition]:
    """`has_no_gap` of each ranking. If it fails, nothing is made from the broken ranking."""
    return [_check(ranking) for ranking in RANKINGS]


def _check(ranking: Ranking) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=ranking_key(ranking),
        name="has_no_gap",
        description="Ranks go from 1 up without a gap, no score is higher than the one before, and no candidate is missing.",
        blocking=True,
    )
    def has_no_gap(context: dg.AssetCheckExecutionContext, settings: dg.ResourceParam[Settings]) -> dg.AssetCheckResult:
        days = _days(context.run.tags, current_day(settings.timezone))
        with closing(connect(settings, statement_seconds=CHECK_SECONDS)) as connection:
            faults = ranking_faults(connection, ranking, days, settings=settings)
            rows = rows_of_days(connection, ranking.table, "ranking_date", min(days), max(days))
        return faults_result(faults, severity=dg.AssetCheckSeverity.ERROR, numbers={"rows_looked_at": rows})

    return has_no_gap


def _days(tags: Mapping[str, str], today: date) -> list[date]:
    """The days of the run's partitions, or today for a run without partitions."""
    ends = run_days(tags) or [today]
    return [min(ends) + timedelta(days=offset) for offset in range((max(ends) - min(ends)).days + 1)]
