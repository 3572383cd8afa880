"""The asset check of issue statistics. It looks at the last days and at the days of its run."""

from contextlib import closing
from datetime import UTC, date, datetime, timedelta

import dagster as dg

from usage_pipeline.checks.issues import issue_stat_faults, overdue_stat_faults
from usage_pipeline.checks.numbers import rows_of_days
from usage_pipeline.defs.assets.issues import ISSUE_STATS_KEY
from usage_pipeline.defs.checks.results import CHECK_SECONDS, faults_result
from usage_pipeline.defs.partitions.calendar import run_days
from usage_pipeline.rollups.daily import current_day
from usage_pipeline.settings import Settings
from usage_pipeline.storage.postgres import connect

# More than a year: what is closed or commented late belongs mostly to the last months.
_RECENT_DAYS = 400


@dg.asset_check(
    asset=ISSUE_STATS_KEY,
    name="follows_issues",
    description="Each day of the run and of the last 400 days counts what issues and comments have. A day whose issues changed "
    "was made again within two hours.",
)
def follows_issues(context: dg.AssetCheckExecutionContext, settings: dg.ResourceParam[Settings]) -> dg.AssetCheckResult:
    now, today = datetime.now(UTC), current_day(settings.timezone)
    spans: list[tuple[date, date]] = [(today - timedelta(days=_RECENT_DAYS), today)]
    if days := run_days(context.run.tags):
        spans.append((min(days), max(days)))
    with closing(connect(settings, statement_seconds=CHECK_SECONDS)) as connection:
        faults, rows = overdue_stat_faults(connection, settings=settings, now=now), 0
        for first, last in spans:
            faults += issue_stat_faults(connection, first, last, settings=settings, now=now)
            rows += rows_of_days(connection, ".".join(ISSUE_STATS_KEY.path), "date", first, last)
    # Two spans may tell the same.
    faults = list(dict.fromkeys(faults))
    return faults_result(faults, severity=dg.AssetCheckSeverity.ERROR, numbers={"rows_looked_at": rows})
