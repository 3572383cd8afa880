"""`usage-pipeline stats` as a person or a script calls it."""

import json
from datetime import timedelta

import psycopg
import pytest

from usage_pipeline_tests.rigs.clock import days_ago, today
from usage_pipeline_tests.rigs.commands import Run


def test_yesterday_or_a_range_is_counted_stored_and_printed(run: Run, postgres: psycopg.Connection) -> None:
    yesterday = days_ago(1)
    postgres.execute(
        "insert into app.issues (id, title, status, created_at) values ('a', 't', 'OPEN', %s)", (yesterday,)
    )
    postgres.execute("insert into app.comments (id, issue_id, created_at) values ('c', 'a', %s)", (yesterday,))
    done = run("stats")
    assert done.returncode == 0, done.stderr
    assert f"{yesterday}" in done.stdout
    assert postgres.execute("select date from stats.daily_issue_stats").fetchall() == [(yesterday,)]
    span = json.loads(run("stats", "--from", yesterday - timedelta(days=1), "--to", today(), "--json").stdout)
    assert span["success"]
    assert [(day["created_count"], day["comment_count"], day["is_changed"]) for day in span["days"]] == [
        (0, 0, True),
        (1, 1, False),
        (0, 0, True),
    ]


def expect_refusal(run: Run, *arguments: object) -> None:
    done = run("stats", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "expected" in done.stderr


def test_tomorrow_is_refused(run: Run) -> None:
    expect_refusal(run, "--date", days_ago(-1))


@pytest.mark.parametrize(
    "arguments",
    [
        ("--date", "2014-12-31"),
        ("--date", "soon"),
        ("--from", "2024-01-01"),
        ("--from", "2024-01-02", "--to", "2024-01-01"),
        ("--date", "2024-01-01", "--from", "2024-01-01", "--to", "2024-01-01"),
    ],
)
def test_wrong_dates_are_one_line_and_status_2(run: Run, arguments: tuple[object, ...]) -> None:
    expect_refusal(run, *arguments)
