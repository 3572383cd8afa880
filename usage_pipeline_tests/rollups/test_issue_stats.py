"""Statistics of issues per day: exact bounds, zeros, what a re-run touches, and every number of the real file."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from usage_pipeline.issues.load import load_issues
from usage_pipeline.rollups.issue_stats import IssueDay, replace_issue_stats
from usage_pipeline.settings import Settings
from usage_pipeline_tests.rigs import clock
from usage_pipeline_tests.rigs.issues import made_up_file, recomputed_days, row_versions, stored_days

MICROSECOND = timedelta(microseconds=1)
DAY = date(2025, 3, 30)


def add(postgres: psycopg.Connection, issue: str, created_at: datetime, resolved_at: datetime | None = None) -> None:
    status = "OPEN" if resolved_at is None else "RESOLVED"
    postgres.execute(
        "insert into app.issues (id, title, status, created_at, resolved_at) values (%s, 't', %s, %s, %s)",
        (issue, status, created_at, resolved_at),
    )


def comment(postgres: psycopg.Connection, comment: str, issue: str, at: datetime) -> None:
    postgres.execute("insert into app.comments (id, issue_id, created_at) values (%s, %s, %s)", (comment, issue, at))


BOUNDS = {
    "UTC": (datetime(2025, 3, 30, tzinfo=UTC), datetime(2025, 3, 31, tzinfo=UTC)),
    # 23 hours: clocks go forward.
    "Europe/Vienna": (datetime(2025, 3, 29, 23, tzinfo=UTC), datetime(2025, 3, 30, 22, tzinfo=UTC)),
    "Asia/Kolkata": (datetime(2025, 3, 29, 18, 30, tzinfo=UTC), datetime(2025, 3, 30, 18, 30, tzinfo=UTC)),
}


@pytest.mark.parametrize("zone", BOUNDS)
def test_a_day_counts_from_its_first_moment_to_before_the_next(
    zone: str, settings: Settings, postgres: psycopg.Connection
) -> None:
    first, end = BOUNDS[zone]
    settings = settings.model_copy(update={"usage_timezone": zone})
    for name, at in {"before": first - MICROSECOND, "first": first, "last": end - MICROSECOND, "after": end}.items():
        add(postgres, name, at, at)
        comment(postgres, name, name, at)
    assert replace_issue_stats(postgres, DAY, DAY, settings=settings) == [IssueDay(DAY, 2, 2, 2, True)]
    days = replace_issue_stats(postgres, DAY - timedelta(days=1), DAY + timedelta(days=2), settings=settings)
    assert [day.created_count for day in days] == [1, 2, 1, 0]
    assert [day.is_changed for day in days] == [True, False, True, True]


def test_days_without_anything_have_zeros_and_a_rerun_touches_nothing(
    settings: Settings, postgres: psycopg.Connection
) -> None:
    last = DAY + timedelta(days=400)
    days = replace_issue_stats(postgres, DAY, last, settings=settings, now=datetime(2026, 12, 1, tzinfo=UTC))
    assert len(days) == 401
    assert set(stored_days(postgres).values()) == {(0, 0, 0)}
    before = row_versions(postgres, "stats.daily_issue_stats")
    again = replace_issue_stats(postgres, DAY, last, settings=settings, now=datetime(2026, 12, 1, tzinfo=UTC))
    assert [day.is_changed for day in again] == [False] * 401
    assert row_versions(postgres, "stats.daily_issue_stats") == before


def test_a_day_that_changes_keeps_its_id_and_says_when(settings: Settings, postgres: psycopg.Connection) -> None:
    other = DAY + timedelta(days=1)
    replace_issue_stats(postgres, DAY, other, settings=settings)
    query = "select date, id, created_at, updated_at > created_at from stats.daily_issue_stats order by 1"
    before = postgres.execute(query).fetchall()
    add(postgres, "a", datetime(2025, 3, 30, 12, tzinfo=UTC))
    replace_issue_stats(postgres, DAY, other, settings=settings)
    assert postgres.execute(query).fetchall() == [(*before[0][:3], True), before[1]]
    # And ids are not used up by runs that change nothing.
    replace_issue_stats(postgres, DAY, other, settings=settings)
    replace_issue_stats(postgres, other + timedelta(days=1), other + timedelta(days=1), settings=settings)
    assert [row[1] for row in postgres.execute(query)] == [1, 2, 4]


def test_what_is_closed_later_or_opened_again_leaves_its_old_day_as_it_was(
    settings: Settings, postgres: psycopg.Connection
) -> None:
    noon = datetime(2025, 3, 30, 12, tzinfo=UTC)
    add(postgres, "a", noon, noon)
    postgres.execute("update app.issues set status = 'CLOSED', updated_at = now()")
    [day] = replace_issue_stats(postgres, DAY, DAY, settings=settings)
    assert (day.created_count, day.resolved_count) == (1, 1)
    postgres.execute("update app.issues set status = 'OPEN'")
    [day] = replace_issue_stats(postgres, DAY, DAY, settings=settings)
    assert (day.created_count, day.resolved_count, day.is_changed) == (1, 1, False)
    # Closed again today, it was resolved on both days.
    postgres.execute("update app.issues set status = 'CLOSED'")
    [day] = replace_issue_stats(postgres, DAY, DAY, settings=settings)
    assert (day.created_count, day.resolved_count, day.is_changed) == (1, 1, False)
    [today] = replace_issue_stats(postgres, clock.today(), clock.today(), settings=settings)
    assert today.resolved_count == 1


def test_today_counts_until_now_and_a_day_to_come_is_refused(settings: Settings, postgres: psycopg.Connection) -> None:
    now = datetime(2025, 3, 30, 12, tzinfo=UTC)
    add(postgres, "a", now - MICROSECOND)
    add(postgres, "b", now)
    [today] = replace_issue_stats(postgres, DAY, DAY, settings=settings, now=now)
    assert today.created_count == 1
    tomorrow = DAY + timedelta(days=1)
    for first, last in ((DAY, tomorrow), (tomorrow, tomorrow), (DAY, DAY - timedelta(days=1))):
        with pytest.raises(ValueError, match="expected days up to today, 2025-03-30, came "):
            replace_issue_stats(postgres, first, last, settings=settings, now=now)
    # Further east it is tomorrow already.
    east = settings.model_copy(update={"usage_timezone": "Pacific/Kiritimati"})
    assert replace_issue_stats(postgres, tomorrow, tomorrow, settings=east, now=now)[0].created_count == 1


@pytest.mark.parametrize("zone", ["UTC", "Europe/Vienna", "America/Havana", "Africa/Cairo"])
def test_every_number_equals_a_recomputation(
    zone: str, settings: Settings, postgres: psycopg.Connection, tmp_path: Path
) -> None:
    settings = settings.model_copy(update={"usage_timezone": zone})
    path = made_up_file(tmp_path / "issues.csv", date(2024, 1, 1), 400)
    load_issues(postgres, path)
    first, last = date(2023, 12, 25), date(2025, 6, 1)
    replace_issue_stats(postgres, first, last, settings=settings)
    found: dict[date, Any] = stored_days(postgres)
    assert found == recomputed_days(path, first, last, zone)
    assert sum(created for created, _, _ in found.values()) == 1_200
