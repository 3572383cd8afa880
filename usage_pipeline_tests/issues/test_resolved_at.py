"""When an issue was resolved is kept by a trigger, so that it stays where it is when the issue changes later."""

from datetime import UTC, datetime, timedelta

import psycopg
import pytest

AT = datetime(2024, 5, 6, 7, 8, 9, 123456, tzinfo=UTC)
DONE = ("RESOLVED", "CLOSED")
NOT_DONE = ("OPEN", "IN_PROGRESS")


def add(postgres: psycopg.Connection, issue: str, status: str, resolved_at: datetime | None = None) -> None:
    postgres.execute(
        "insert into app.issues (id, title, status, resolved_at) values (%s, 't', %s, %s)", (issue, status, resolved_at)
    )


def change(postgres: psycopg.Connection, issue: str, status: str) -> None:
    postgres.execute("update app.issues set status = %s where id = %s", (status, issue))


def resolved_at(postgres: psycopg.Connection, issue: str) -> datetime | None:
    row = postgres.execute("select resolved_at from app.issues where id = %s", (issue,)).fetchone()
    assert row is not None
    moment: datetime | None = row[0]
    return moment


def is_now(postgres: psycopg.Connection, moment: datetime | None) -> bool:
    row = postgres.execute("select now()").fetchone()
    assert row is not None
    return moment is not None and timedelta(0) <= row[0] - moment < timedelta(minutes=5)


def test_entering_a_done_status_sets_the_time_and_leaving_it_clears_it(postgres: psycopg.Connection) -> None:
    for status in NOT_DONE:
        for done in DONE:
            issue = f"{status} {done}"
            add(postgres, issue, status)
            assert resolved_at(postgres, issue) is None
            change(postgres, issue, done)
            assert is_now(postgres, resolved_at(postgres, issue))
            change(postgres, issue, status)
            assert resolved_at(postgres, issue) is None


def test_an_issue_that_is_done_when_it_comes_was_resolved_now(postgres: psycopg.Connection) -> None:
    for done in DONE:
        add(postgres, done, done)
        assert is_now(postgres, resolved_at(postgres, done))


def test_a_status_that_is_not_done_has_no_time_whoever_gives_one(postgres: psycopg.Connection) -> None:
    add(postgres, "a", "OPEN", AT)
    assert resolved_at(postgres, "a") is None
    postgres.execute("update app.issues set resolved_at = %s", (AT,))
    assert resolved_at(postgres, "a") is None


def test_from_resolved_to_closed_the_first_time_stays(postgres: psycopg.Connection) -> None:
    add(postgres, "a", "RESOLVED", AT)
    change(postgres, "a", "CLOSED")
    assert resolved_at(postgres, "a") == AT
    # Nor does another change move it, or the loss of it.
    postgres.execute("update app.issues set title = 'other', updated_at = now()")
    postgres.execute("update app.issues set resolved_at = null")
    assert resolved_at(postgres, "a") == AT


def test_who_knows_the_time_gives_it(postgres: psycopg.Connection) -> None:
    add(postgres, "a", "CLOSED", AT)
    assert resolved_at(postgres, "a") == AT
    add(postgres, "b", "OPEN")
    postgres.execute("update app.issues set status = 'CLOSED', resolved_at = %s where id = 'b'", (AT,))
    assert resolved_at(postgres, "b") == AT
    # And corrects it.
    postgres.execute("update app.issues set resolved_at = %s where id = 'b'", (AT - timedelta(days=1),))
    assert resolved_at(postgres, "b") == AT - timedelta(days=1)


def test_reopened_and_closed_again_it_was_resolved_the_second_time(postgres: psycopg.Connection) -> None:
    add(postgres, "a", "CLOSED", AT)
    change(postgres, "a", "IN_PROGRESS")
    change(postgres, "a", "CLOSED")
    assert is_now(postgres, resolved_at(postgres, "a"))


def test_there_are_four_statuses_and_no_other(postgres: psycopg.Connection) -> None:
    with pytest.raises(psycopg.errors.CheckViolation):
        add(postgres, "a", "closed")
