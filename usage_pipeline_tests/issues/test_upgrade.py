"""An upgrade of a database that has issues: whose is what, and which days are made again."""

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, date, datetime
from pathlib import Path

import psycopg
import pytest

from usage_pipeline.checks.issues import issue_stat_faults
from usage_pipeline.issues.load import LoadReport, load_issues
from usage_pipeline.local.servers.both import LocalServers
from usage_pipeline.rollups.rankings import RANKINGS, read_ranking
from usage_pipeline.rollups.stale.dates import stale_dates
from usage_pipeline.settings import load_settings
from usage_pipeline.storage.migrations import migrate
from usage_pipeline_tests.rigs.clock import today
from usage_pipeline_tests.rigs.issues import comment_frame, issue_frame, made_up_file, row_versions, write_issues
from usage_pipeline_tests.storage.old_schema import before, old_database


@pytest.fixture
def older(servers: LocalServers) -> Iterator[tuple[str, psycopg.Connection]]:
    """A database before the migration: its URL, and a connection."""
    with (
        old_database(servers.postgres, before("0015")) as url,
        closing(psycopg.connect(url, autocommit=True)) as postgres,
    ):
        yield url, postgres


def load_as_before(postgres: psycopg.Connection, path: Path) -> None:
    """What the older loader stored, recomputed from its rule."""
    issues = issue_frame(path)
    with postgres.cursor() as cursor:
        cursor.executemany(
            "insert into app.issues (id, title, status, view_count, created_at, updated_at, resolved_at)"
            " values (%s, %s, %s, %s, %s, %s, %s)",
            [
                (
                    row.number,
                    f"Issue {row.number}",
                    row.state.upper(),
                    row.reactions,
                    row.created_at.to_pydatetime(),
                    row.updated_at.to_pydatetime(),
                    row.closed_at.to_pydatetime() if row.state == "closed" else None,
                )
                for row in issues.itertuples()
            ],
        )
        cursor.executemany(
            "insert into app.comments (id, issue_id, created_at) values (%s, %s, %s)",
            [(row.id, row.issue_id, row.created_at.to_pydatetime()) for row in comment_frame(issues).itertuples()],
        )


def test_what_was_loaded_before_is_known_as_such_and_comments_of_applications_are_not(
    older: tuple[str, psycopg.Connection], tmp_path: Path
) -> None:
    url, postgres = older
    path = made_up_file(tmp_path / "a.csv", date(2024, 1, 1), 60)
    load_as_before(postgres, path)
    postgres.execute("insert into app.issues (id, title, status, reporter) values ('T1', 't', 'OPEN', 'ann')")
    postgres.execute("insert into app.issues (id, title, status) values ('T2', 't', 'OPEN')")
    for issue, number, author in (("T1", 1, None), ("T1", 2, None), ("T2", 1, "bob"), ("T2", 2, None), ("0", 77, None)):
        postgres.execute(
            "insert into app.comments (id, issue_id, author) values (%s, %s, %s)", (f"{issue}-{number}", issue, author)
        )
    migrate(url)
    frame = issue_frame(path)
    query = "select count(*) from app.comments where loaded_number is not null"
    assert postgres.execute(query).fetchone() == (frame["comments"].sum(),)
    rows = row_versions(postgres, "app.issues"), row_versions(postgres, "app.comments")
    assert load_issues(postgres, path) == LoadReport(len(frame), 0, 0, 0, 0, 0, 0, 0, ())
    assert (row_versions(postgres, "app.issues"), row_versions(postgres, "app.comments")) == rows
    # No comment is the loader's that it did not make, so none of these goes.
    none = write_issues(
        tmp_path / "b.csv", *(line.rsplit(",", 2)[0] + ",0,0" for line in path.read_text().splitlines()[1:])
    )
    assert load_issues(postgres, none).removed_comments == frame["comments"].sum()
    assert postgres.execute("select count(*) from app.comments").fetchone() == (5,)


def test_days_that_are_wrong_are_made_again_and_an_opening_that_nobody_noted_changes_none(
    older: tuple[str, psycopg.Connection],
) -> None:
    url, postgres = older
    at = datetime(2024, 2, 10, 12, tzinfo=UTC)
    postgres.execute(
        "insert into app.issues (id, title, status, created_at) values ('a', %s, 'OPEN', %s)", ("x" * 5_000, at)
    )
    days = {date(2024, 2, 10): (1, 3, 0), date(2024, 2, 11): (1, 0, 0), date(2024, 2, 12): (0, 2, 0)}
    for day, counts in days.items():
        postgres.execute(
            "insert into stats.daily_issue_stats (date, created_count, resolved_count, comment_count) values (%s, %s, %s, %s)",
            (day, *counts),
        )
    postgres.execute(
        "insert into stats.popular_issues select '2024-02-12', 1, id, title, 0, 0, 0, created_at from app.issues"
    )
    postgres.execute("update app.issues set status = 'CLOSED', resolved_at = 'infinity'")
    postgres.execute("insert into app.comments (id, issue_id, created_at) values ('c', 'a', '-infinity')")
    migrate(url)
    assert [one.date for one in stale_dates(postgres, today=today())][:1] == [date(2024, 2, 10)]
    assert date(2024, 2, 12) not in [one.date for one in stale_dates(postgres, today=today())]
    # Two issues that are open again now: it is not known which, and the day stays as it is.
    settings = load_settings(database_url=url)
    now = datetime.now(UTC)
    assert issue_stat_faults(postgres, date(2024, 2, 12), date(2024, 2, 12), settings=settings, now=now) == []
    [entry] = read_ranking(postgres, RANKINGS[0])
    assert entry["title"] == "x" * 299 + "…"
    assert postgres.execute("select count(*) from reporting.time_to_resolve_by_week").fetchone() == (1,)
