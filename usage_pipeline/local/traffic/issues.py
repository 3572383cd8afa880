"""Made-up issues with comments, for the demo. The same seed makes the same issues."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import psycopg

from usage_pipeline.local.traffic.counters import Counts
from usage_pipeline.storage.sql import load

_WHAT = ("Export", "Search", "Upload", "Summary", "Invoice", "Login", "Webhook", "Dashboard")
_FAILS = ("is slow", "fails with a time-out", "shows yesterday's numbers", "loses its filter", "needs a retry")
_WHERE = ("on large files", "for new teams", "on Mondays", "in the mobile app", "behind a proxy")
_PEOPLE = ("ana", "ben", "chloe", "dev", "emil")
_RESOLVED_SHARE = 0.7
_LONGEST_DAYS_TO_RESOLVE = 12


@dataclass(frozen=True, slots=True)
class MadeUpIssue:
    """An issue as an application would store it. It is resolved if it has `resolved_at`."""

    issue_id: str
    title: str
    status: str
    reporter: str
    assignee: str | None
    view_count: int
    created_at: datetime
    resolved_at: datetime | None
    comments: tuple[tuple[str, datetime], ...]


def made_up_issues(seed: int, count: int, *, until: datetime, days: int) -> list[MadeUpIssue]:
    """So many issues of the days before `until`, in the order of their times. No time in them is after `until`."""
    chance = random.Random(seed)  # noqa: S311  # made-up issues, reproducible by their seed
    times = sorted(until - timedelta(days=days) * (1 - chance.random()) for _ in range(count))
    return [_issue(chance, f"demo-{seed}-{number}", created_at, until) for number, created_at in enumerate(times)]


def _issue(chance: random.Random, issue_id: str, created_at: datetime, until: datetime) -> MadeUpIssue:
    resolved_at = created_at + timedelta(days=_LONGEST_DAYS_TO_RESOLVE) * chance.random() ** 2
    is_resolved = chance.random() < _RESOLVED_SHARE and resolved_at < until
    last = resolved_at if is_resolved else until
    comments = [
        (chance.choice(_PEOPLE), created_at + (last - created_at) * chance.random())
        for _ in range(min(int(chance.paretovariate(1.2)) - 1, 30))
    ]
    is_taken = is_resolved or chance.random() < 0.5
    done, undone = chance.choice(("RESOLVED", "CLOSED")), "IN_PROGRESS" if is_taken else "OPEN"
    return MadeUpIssue(
        issue_id=issue_id,
        title=f"{chance.choice(_WHAT)} {chance.choice(_FAILS)} {chance.choice(_WHERE)}",
        status=done if is_resolved else undone,
        reporter=chance.choice(_PEOPLE),
        assignee=chance.choice(_PEOPLE) if is_taken else None,
        view_count=min(int(chance.paretovariate(0.9) * 4), 500),
        created_at=created_at,
        resolved_at=resolved_at if is_resolved else None,
        comments=tuple(comments),
    )


def store_issues(connection: psycopg.Connection, issues: Sequence[MadeUpIssue]) -> Counts:
    """Inserts the issues, as an application does, and counts what the daily statistics must count."""
    rows = [
        {
            "id": issue.issue_id,
            "title": issue.title,
            "status": issue.status,
            "reporter": issue.reporter,
            "assignee": issue.assignee,
            "view_count": issue.view_count,
            "created_at": issue.created_at,
            "updated_at": max(
                [issue.created_at, issue.resolved_at or issue.created_at, *(at for _, at in issue.comments)]
            ),
            "resolved_at": issue.resolved_at,
        }
        for issue in issues
    ]
    comments = [
        {"id": f"{issue.issue_id}-{number}", "issue_id": issue.issue_id, "author": author, "created_at": at}
        for issue in issues
        for number, (author, at) in enumerate(issue.comments)
    ]
    with connection.transaction(), connection.cursor() as cursor:
        cursor.executemany(load("local/insert_issue"), rows)
        cursor.executemany(load("local/insert_comment"), comments)
    counted = {
        "created_count": len(issues),
        "resolved_count": sum(issue.resolved_at is not None for issue in issues),
        "comment_count": len(comments),
    }
    return Counter({("issue", "all", name): count for name, count in counted.items()})
