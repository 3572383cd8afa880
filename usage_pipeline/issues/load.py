"""Loads a file of issues into `app.issues` and `app.comments`, in one transaction; loading it again changes nothing.

The file has a count of comments only, so comment k of n (k = 1..n) of an issue is written as `<issue>-<k>` at
created_at + (updated_at - created_at) * k / (n + 1), rounded down to whole microseconds.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import psycopg

from usage_pipeline.issues.file import BadLine, Issue, read_issues
from usage_pipeline.storage.copy_text import copy_line
from usage_pipeline.storage.sql import load

# Lines that are held in memory at a time, and bad lines that are told one by one.
_CHUNK_LINES = 2_000
_MOST_TOLD = 1_000


@dataclass(slots=True)
class _BadLines:
    told: list[BadLine] = field(default_factory=list)
    count: int = 0

    def add(self, bad: BadLine) -> None:
        self.count += 1
        if len(self.told) < _MOST_TOLD:
            self.told.append(bad)


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What a load did. `lines` counts good and bad lines. `bad_lines` are the first thousand of the `bad` ones, in order."""

    lines: int
    repeated: int
    new_issues: int
    changed_issues: int
    new_comments: int
    changed_comments: int
    removed_comments: int
    bad: int
    bad_lines: tuple[BadLine, ...]

    @property
    def is_success(self) -> bool:
        return not self.bad

    @property
    def issues(self) -> int:
        """Good lines, each number once. So many issues of the file are stored now."""
        return self.lines - self.bad - self.repeated


def load_issues(connection: psycopg.Connection, path: Path, *, now: datetime | None = None) -> LoadReport:
    """Stores the good lines of the file, on an autocommit connection, and reports the bad lines.

    A stored issue gets the values of the file. Its reporter and assignee, comments of others, and issues that are not in the
    file stay as they are. If a number comes again with other content, the first line counts and the others are bad.
    Raises IssueFileError when the file cannot be used at all; then nothing is stored.
    """
    bad = _BadLines()
    with connection.transaction():
        connection.execute("select pg_advisory_xact_lock(hashtext('load issues'))")
        connection.execute(load("issues/stage_issue"))
        lines = _stage(connection, path, now or datetime.now(UTC), bad)
        # Nobody else gathers statistics of a temporary table.
        connection.execute("analyze staged_issue")
        repeated = _refuse_contradictions(connection, bad)
        _refuse_clashes(connection, bad)
        new_issues, changed_issues = _counts(connection, "issues/upsert_issues")
        removed = connection.execute(load("issues/delete_surplus_comments")).rowcount
        new_comments, changed_comments = _counts(connection, "issues/upsert_comments")
    return LoadReport(
        lines=lines,
        repeated=repeated,
        new_issues=new_issues,
        changed_issues=changed_issues,
        new_comments=new_comments,
        changed_comments=changed_comments,
        removed_comments=removed,
        bad=bad.count,
        bad_lines=tuple(sorted(bad.told, key=lambda one: one.line)),
    )


def _stage(connection: psycopg.Connection, path: Path, now: datetime, bad: _BadLines) -> int:
    lines = 0
    found = read_issues(path, now)
    with connection.cursor() as cursor, cursor.copy("copy staged_issue from stdin") as copy:
        while chunk := list(islice(found, _CHUNK_LINES)):
            lines += len(chunk)
            for _, one in chunk:
                if isinstance(one, BadLine):
                    bad.add(one)
            rows = [_row(line, one) for line, one in chunk if isinstance(one, Issue)]
            if rows:
                copy.write(b"\n".join((*rows, b"")))
    return lines


def _row(line: int, issue: Issue) -> bytes:
    """The values of an issue in the order of stage_issue.sql."""
    return copy_line(
        (
            line,
            issue.id,
            issue.title,
            issue.status,
            issue.view_count,
            issue.comments,
            issue.created_at,
            issue.updated_at,
            issue.resolved_at,
        )
    )


def _refuse_contradictions(connection: psycopg.Connection, bad: _BadLines) -> int:
    """Keeps the first line of each number. Returns how many other lines only repeat it."""
    found = connection.execute(load("issues/select_contradictions"), {"most": _MOST_TOLD}).fetchall()
    for line, number, first_line, _ in found:
        bad.add(
            BadLine(line, f"number: expected {number} once, came again with other content than in line {first_line}")
        )
    contradictions: int = found[0][-1] if found else 0
    bad.count += contradictions - len(found)
    return connection.execute(load("issues/delete_repeated_issues")).rowcount - contradictions


def _refuse_clashes(connection: psycopg.Connection, bad: _BadLines) -> None:
    for line, comment, issue in connection.execute(load("issues/delete_clashing_issues")):
        bad.add(BadLine(line, f"comments: expected the id {comment} to be free, came a comment on issue {issue}"))


def _counts(connection: psycopg.Connection, query: str) -> tuple[int, int]:
    row: tuple[Any, ...] | None = connection.execute(load(query)).fetchone()
    new, changed = row or (0, 0)
    return new, changed
