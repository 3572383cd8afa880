"""Made-up issues: the same for a seed, and nothing of them in the future."""

from datetime import UTC, datetime, timedelta

import psycopg

from usage_pipeline.local.traffic.issues import made_up_issues, store_issues

UNTIL = datetime(2026, 3, 1, tzinfo=UTC)


def test_the_same_seed_gives_the_same_issues() -> None:
    issues = made_up_issues(5, 50, until=UNTIL, days=20)
    assert issues == made_up_issues(5, 50, until=UNTIL, days=20) != made_up_issues(6, 50, until=UNTIL, days=20)


def test_all_of_them_happened_in_their_days_and_in_order() -> None:
    for issue in made_up_issues(5, 200, until=UNTIL, days=20):
        last = issue.resolved_at or UNTIL
        assert UNTIL - timedelta(days=20) <= issue.created_at <= last <= UNTIL
        assert all(issue.created_at <= at <= last for _, at in issue.comments)
        assert (issue.resolved_at is not None) == (issue.status in ("RESOLVED", "CLOSED"))


def test_what_is_counted_is_what_is_stored(postgres: psycopg.Connection) -> None:
    issues = made_up_issues(5, 50, until=UNTIL, days=20)
    counts = store_issues(postgres, issues)
    [stored] = postgres.execute(
        "select count(*), count(resolved_at), (select count(*) from app.comments) from app.issues"
    ).fetchall()
    assert (
        tuple(counts["issue", "all", name] for name in ("created_count", "resolved_count", "comment_count")) == stored
    )
    assert postgres.execute("select count(*) from app.issues where resolved_at > %s", (UNTIL,)).fetchone() == (0,)
