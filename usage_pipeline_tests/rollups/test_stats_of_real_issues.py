"""Every day of the years of the real issues: statistics and rankings equal a recomputation, and a re-run touches nothing."""

from datetime import date, timedelta

import psycopg
import pytest

from usage_pipeline.checks.rankings import ranking_faults
from usage_pipeline.issues.load import load_issues
from usage_pipeline.rollups.issue_stats import replace_issue_stats
from usage_pipeline.rollups.rankings import RANKINGS, replace_rankings
from usage_pipeline.settings import Settings
from usage_pipeline_tests.rigs.issues import (
    real_file,
    recomputed_days,
    recomputed_rankings,
    row_versions,
    stored_days,
    stored_rankings,
)

FIRST, LAST = date(2019, 3, 1), date(2024, 12, 31)
DAYS = [FIRST + timedelta(days=offset) for offset in range((LAST - FIRST).days + 1)]
TABLES = ("stats.daily_issue_stats", "stats.popular_issues")


@pytest.mark.parametrize("zone", ["UTC", "Europe/Vienna", "Asia/Kolkata", "America/Havana"])
def test_every_day_equals_a_recomputation_and_a_rerun_changes_nothing(
    zone: str, settings: Settings, postgres: psycopg.Connection
) -> None:
    path = real_file()
    settings = settings.model_copy(update={"usage_timezone": zone})
    [issues, *_] = RANKINGS
    load_issues(postgres, path)
    replace_issue_stats(postgres, FIRST, LAST, settings=settings)
    replace_rankings(postgres, issues, DAYS, settings=settings)
    assert stored_days(postgres) == recomputed_days(path, FIRST, LAST, zone)
    assert stored_rankings(postgres) == {
        day: rows for day, rows in recomputed_rankings(path, DAYS, zone).items() if rows
    }
    assert ranking_faults(postgres, issues, DAYS, settings=settings) == []
    before = [row_versions(postgres, table) for table in TABLES]
    assert not any(day.is_changed for day in replace_issue_stats(postgres, FIRST, LAST, settings=settings))
    assert sum(report.changed_rows for report in replace_rankings(postgres, issues, DAYS, settings=settings)) == 0
    assert [row_versions(postgres, table) for table in TABLES] == before
