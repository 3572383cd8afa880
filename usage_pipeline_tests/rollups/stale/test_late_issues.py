"""Issue statistics follow what is loaded, closed, opened again or commented late, and an old day counts the same for ever."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from usage_pipeline.checks.issues import issue_stat_faults, overdue_stat_faults
from usage_pipeline.issues.load import load_issues
from usage_pipeline.rollups.issue_stats import ISSUE_STATS_TABLE, replace_issue_stats
from usage_pipeline.rollups.stale.dates import stale_dates
from usage_pipeline.settings import Settings
from usage_pipeline_tests.rigs.clock import today
from usage_pipeline_tests.rigs.issues import stored_days, write_issues

DAY = date(2024, 2, 10)
NOON = datetime(2024, 2, 10, 12, tzinfo=UTC)


def days(*offsets: int) -> list[date]:
    return [DAY + timedelta(days=offset) for offset in offsets]


def make(postgres: psycopg.Connection, settings: Settings) -> None:
    """All of the days around DAY."""
    replace_issue_stats(postgres, days(-10)[0], days(20)[0], settings=settings)


def counts(postgres: psycopg.Connection, day: date = DAY) -> tuple[int, int, int]:
    return stored_days(postgres)[day]


def stale(postgres: psycopg.Connection) -> list[date]:
    return [one.date for one in stale_dates(postgres, today=today()) if one.table == ISSUE_STATS_TABLE]


def faults(postgres: psycopg.Connection, settings: Settings) -> list[str]:
    return issue_stat_faults(postgres, *days(-10, 20), settings=settings, now=datetime.now(UTC))


def add(postgres: psycopg.Connection, issue: str, at: datetime = NOON, resolved_at: datetime | None = None) -> None:
    postgres.execute(
        "insert into app.issues (id, title, status, created_at, resolved_at) values (%s, 't', %s, %s, %s)",
        (issue, "OPEN" if resolved_at is None else "CLOSED", at, resolved_at),
    )


# What happens late, and the days from DAY that it changes.
CHANGES = {
    "an issue comes": (
        "insert into app.issues (id, title, status, created_at) values ('n', 't', 'OPEN', %(noon)s)",
        [0],
    ),
    "an issue comes closed": (
        "insert into app.issues (id, title, status, created_at, resolved_at)"
        " values ('n', 't', 'CLOSED', %(noon)s, %(noon)s::timestamptz + interval '3 days')",
        [0, 3],
    ),
    "an issue is closed with its time": (
        "update app.issues set status = 'CLOSED', resolved_at = %(noon)s::timestamptz + interval '5 days' where id = 'open'",
        [5],
    ),
    "a time of resolution is corrected": (
        "update app.issues set resolved_at = %(noon)s::timestamptz + interval '2 days' where id = 'closed'",
        [1, 2],
    ),
    "a time of creation is corrected": (
        "update app.issues set created_at = %(noon)s::timestamptz - interval '1 day' where id = 'open'",
        [-1, 0],
    ),
    "an issue goes": ("delete from app.issues where id = 'closed'", [0, 1, 4]),
    "a comment comes": (
        "insert into app.comments (id, issue_id, created_at) values ('n', 'open', %(noon)s::timestamptz + interval '6 days')",
        [6],
    ),
    "a comment moves": (
        "update app.comments set created_at = created_at + interval '1 day'",
        [4, 5],
    ),
    "a comment goes": ("delete from app.comments", [4]),
    "views, titles, people": (
        "update app.issues set view_count = 9, title = 'x', assignee = 'a', updated_at = now()",
        [],
    ),
    "a comment gets an author": ("update app.comments set author = 'a'", []),
    "an issue is opened again": ("update app.issues set status = 'OPEN' where id = 'closed'", []),
    "a resolved issue is closed": ("update app.issues set status = 'RESOLVED' where id = 'closed'", []),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_late_makes_exactly_its_days_stale_until_they_are_made_again(
    change: str, settings: Settings, postgres: psycopg.Connection
) -> None:
    statement, offsets = CHANGES[change]
    add(postgres, "open")
    add(postgres, "closed", resolved_at=NOON + timedelta(days=1))
    postgres.execute(
        "insert into app.comments (id, issue_id, created_at) values ('c', 'closed', %s)", (NOON + timedelta(days=4),)
    )
    make(postgres, settings)
    assert stale(postgres) == []
    before = stored_days(postgres)
    postgres.execute(statement, {"noon": NOON})
    assert stale(postgres) == days(*offsets)
    # What waits is no fault.
    assert faults(postgres, settings) == []
    for day in stale(postgres):
        [made] = replace_issue_stats(postgres, day, day, settings=settings)
        assert (made.is_changed, made.is_late) == (True, True)
    assert stale(postgres) == []
    assert faults(postgres, settings) == []
    # Nothing else had to be made.
    after = stored_days(postgres)
    assert sorted(day for day in after if after[day] != before[day]) == days(*offsets)
    make(postgres, settings)
    assert stored_days(postgres) == after
    late = postgres.execute("select usage_date, before, after from ops.late_data order by 1").fetchall()
    names = ("created_count", "resolved_count", "comment_count")
    assert late == [
        (day, dict(zip(names, before[day], strict=True)), dict(zip(names, after[day], strict=True)))
        for day in days(*offsets)
    ]


@pytest.mark.parametrize("statement", ["truncate app.issues cascade", "truncate app.comments"])
def test_a_truncate_makes_every_day_that_was_made_stale(
    statement: str, settings: Settings, postgres: psycopg.Connection
) -> None:
    add(postgres, "closed", resolved_at=NOON + timedelta(days=1))
    postgres.execute("insert into app.comments (id, issue_id, created_at) values ('c', 'closed', %s)", (NOON,))
    make(postgres, settings)
    before = stored_days(postgres)
    postgres.execute(statement)
    assert stale(postgres) == [*before]
    make(postgres, settings)
    assert stale(postgres) == []
    assert faults(postgres, settings) == []
    left = (0, 0, 0) if "issues" in statement else (1, 0, 0)
    assert counts(postgres) == left


def test_three_that_were_resolved_stay_three_when_one_is_loaded_as_open_again(
    settings: Settings, postgres: psycopg.Connection, tmp_path: Path
) -> None:
    closed = [
        f"{number},2024-02-01 00:00:00,2024-02-10 09:00:00,2024-02-10 09:00:00,closed,0,0" for number in (1, 2, 3)
    ]
    load_issues(postgres, write_issues(tmp_path / "a.csv", *closed))
    make(postgres, settings)
    assert counts(postgres)[1] == 3
    reopened = "1,2024-02-01 00:00:00,2024-02-20 09:00:00,,open,0,0"
    load_issues(postgres, write_issues(tmp_path / "b.csv", reopened))
    make(postgres, settings)
    assert counts(postgres)[1] == 3
    # The first file again: it was never opened again, and it counts once.
    load_issues(postgres, write_issues(tmp_path / "a.csv", *closed))
    make(postgres, settings)
    assert counts(postgres)[1] == 3
    # And closed another time.
    again = "1,2024-02-01 00:00:00,2024-02-21 09:00:00,2024-02-21 09:00:00,closed,0,0"
    load_issues(postgres, write_issues(tmp_path / "b.csv", reopened))
    load_issues(postgres, write_issues(tmp_path / "c.csv", again))
    make(postgres, settings)
    assert (counts(postgres)[1], counts(postgres, days(11)[0])[1]) == (3, 1)
    history = "select resolved_at::date, reopened_at::date from app.issue_resolutions where issue_id = '1' order by 1"
    assert postgres.execute(history).fetchall() == [(DAY, date(2024, 2, 21)), (date(2024, 2, 21), None)]


def test_closed_and_opened_within_a_day_it_was_not_resolved_on_it(
    settings: Settings, postgres: psycopg.Connection
) -> None:
    add(postgres, "a", datetime.now(UTC))
    for status in ("CLOSED", "OPEN", "CLOSED", "IN_PROGRESS"):
        postgres.execute("update app.issues set status = %s", (status,))
        [made] = replace_issue_stats(postgres, today(), today(), settings=settings)
        assert made.resolved_count == (1 if status == "CLOSED" else 0)


def test_the_check_finds_a_day_that_is_wrong_and_a_day_that_waits_too_long(
    settings: Settings, postgres: psycopg.Connection
) -> None:
    add(postgres, "a")
    make(postgres, settings)
    now = datetime.now(UTC)
    assert overdue_stat_faults(postgres, settings=settings, now=now) == []
    postgres.execute("update stats.daily_issue_stats set created_count = 7 where date = %s", (DAY,))
    assert faults(postgres, settings) == [
        "2024-02-10: 7 created, 0 resolved, 0 comments stored; the issues have 1, 0, 0. Materialize the day again"
    ]
    # More that were resolved than are known is a fault since the history is kept.
    replace_issue_stats(postgres, DAY, DAY, settings=settings)
    postgres.execute("update stats.daily_issue_stats set resolved_count = 1 where date = %s", (DAY,))
    assert faults(postgres, settings) == []
    postgres.execute("update ops.calendar set resolutions_noted_since = '2020-01-01'")
    assert [fault[:34] for fault in faults(postgres, settings)] == ["2024-02-10: 1 created, 1 resolved,"]
    add(postgres, "b")
    assert faults(postgres, settings) == []
    assert overdue_stat_faults(postgres, settings=settings, now=now + timedelta(hours=1)) == []
    [fault] = overdue_stat_faults(postgres, settings=settings, now=now + timedelta(hours=3))
    assert fault.startswith("2024-02-10: not made again since its issues changed at ")


def test_a_day_that_was_only_made_while_it_ran_is_not_late(settings: Settings, postgres: psycopg.Connection) -> None:
    add(postgres, "a")
    replace_issue_stats(postgres, DAY, DAY, settings=settings)
    postgres.execute("update ops.made_dates set made_at = %s", (NOON,))
    add(postgres, "b")
    [made] = replace_issue_stats(postgres, DAY, DAY, settings=settings)
    assert (made.created_count, made.is_changed, made.is_late) == (2, True, False)


@pytest.mark.parametrize("column", ["created_at", "updated_at", "resolved_at"])
@pytest.mark.parametrize("moment", ["infinity", "-infinity"])
def test_a_time_that_is_no_time_is_refused(column: str, moment: str, postgres: psycopg.Connection) -> None:
    add(postgres, "a", resolved_at=NOON)
    with pytest.raises(psycopg.errors.CheckViolation, match="issues_have_finite_times"):
        postgres.execute(f"update app.issues set {column} = %s", (moment,))
    with pytest.raises(psycopg.errors.CheckViolation, match="comments_have_finite_times"):
        postgres.execute("insert into app.comments (id, issue_id, created_at) values ('c', 'a', %s)", (moment,))


def test_an_issue_that_was_resolved_before_it_was_reported_spoils_no_view(postgres: psycopg.Connection) -> None:
    add(postgres, "odd", resolved_at=NOON - timedelta(days=1))
    add(postgres, "a", at=NOON - timedelta(days=3), resolved_at=NOON - timedelta(days=1))
    query = "select resolved_issues, median_days_to_resolve from reporting.time_to_resolve_by_week"
    assert postgres.execute(query).fetchall() == [(2, 2)]


def test_an_application_that_may_only_write_its_issues_needs_no_right_of_ours(
    settings: Settings, postgres: psycopg.Connection
) -> None:
    make(postgres, settings)
    postgres.execute("create role issue_writer")
    try:
        postgres.execute("grant usage on schema app to issue_writer")
        postgres.execute("grant select, insert, update, delete on app.issues, app.comments to issue_writer")
        postgres.execute("set role issue_writer")
        add(postgres, "a")
        postgres.execute("insert into app.comments (id, issue_id, created_at) values ('c', 'a', %s)", (NOON,))
        postgres.execute("update app.issues set status = 'CLOSED', created_at = created_at + interval '1 second'")
        postgres.execute("delete from app.issues")
        postgres.execute("reset role")
        assert DAY in stale(postgres)
    finally:
        postgres.execute("reset role")
        postgres.execute("drop owned by issue_writer")
        postgres.execute("drop role issue_writer")
