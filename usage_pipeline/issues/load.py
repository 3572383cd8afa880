"""Loads a file of issues into `app.issues` and `app.comments`, in one transaction; loading it again changes nothing.

An issue is known by its project and number, a comment by its issue and number: columns say which rows are the loader's. It
changes no row of an application. The file has a count of comments only, so comment k of n (k = 1..n) is written at
created_at + (updated_at - created_at) * k / (n + 1), rounded down to whole microseconds.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from itertools import islice
from pathlib import Path
from typing import Any

import psycopg

from usage_pipeline.issues.file import BadLine, Issue, IssueFileError, read_issues
from usage_pipeline.storage.copy_text import copy_line
from usage_pipeline.storage.sql import load
from usage_pipeline.texts import counted

# Lines that are held in memory at a time, and bad lines that are told one by one.
_CHUNK_LINES = 2_000
_MOST_TOLD = 1_000
# As GitHub has them: owner/name. Without `#`, which parts a project from a number.
_PROJECT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,99}")


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


def load_issues(
    connection: psycopg.Connection,
    path: Path,
    *,
    project: str | None = None,
    zone: tzinfo = UTC,
    now: datetime | None = None,
) -> LoadReport:
    """Stores the good lines of the file, on an autocommit connection, and reports the bad lines.

    Times without an offset are of `zone`.
    A stored issue gets the values of the file. Its reporter and assignee, comments of others, and issues that are not in the
    file stay as they are. If a number comes again with other content, the first line counts and the others are bad. Issues that
    were loaded without a project are taken into `project` if number and time of creation are the same.
    Raises IssueFileError when the file cannot be used at all, when it has issues of another project and is loaded without one,
    or when `project` is another spelling of one that is stored. Then nothing is stored.
    """
    if project is not None and not _PROJECT.fullmatch(project):
        raise IssueFileError(
            f"project: expected 1 to 100 letters, digits, or . _ / - such as owner/name, came {project[:110]!r}"
        )
    of_project = {"project": project or ""}
    bad = _BadLines()
    with connection.transaction():
        connection.execute("select pg_advisory_xact_lock(hashtext('load issues'))")
        connection.execute(load("issues/stage_issue"))
        lines = _stage(connection, read_issues(path, now or datetime.now(UTC), zone), project, bad)
        # Nobody else gathers statistics of a temporary table.
        connection.execute("analyze staged_issue")
        repeated = _refuse_contradictions(connection, bad)
        if project is not None:
            _refuse_other_spelling(connection, project)
        connection.execute(load("issues/find_stored_issues"), of_project)
        if project is None:
            _refuse_other_projects(connection, path)
        _refuse_foreign_issues(connection, bad, of_project)
        new_issues, changed_issues = _counts(connection, "issues/upsert_issues", of_project)
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


def _stage(
    connection: psycopg.Connection, found: Iterator[tuple[int, Issue | BadLine]], project: str | None, bad: _BadLines
) -> int:
    lines = 0
    with connection.cursor() as cursor, cursor.copy("copy staged_issue from stdin") as copy:
        while chunk := list(islice(found, _CHUNK_LINES)):
            lines += len(chunk)
            for _, one in chunk:
                if isinstance(one, BadLine):
                    bad.add(one)
            rows = [_row(line, one, project) for line, one in chunk if isinstance(one, Issue)]
            if rows:
                copy.write(b"\n".join((*rows, b"")))
    return lines


def _row(line: int, issue: Issue, project: str | None) -> bytes:
    """The values of an issue in the order of stage_issue.sql."""
    return copy_line(
        (
            line,
            issue.number,
            # Unless it is stored already under another id.
            issue.number if project is None else f"{project}#{issue.number}",
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


def _refuse_other_spelling(connection: psycopg.Connection, project: str) -> None:
    """`Owner/name` and `owner/name/` would be second copies of all issues of `owner/name`. Raises IssueFileError."""
    row = connection.execute(load("issues/select_other_spelling"), {"project": project}).fetchone()
    if row is not None:
        raise IssueFileError(f"project: expected {row[0]}, as it was loaded before, came {project}")


def _refuse_other_projects(connection: psycopg.Connection, path: Path) -> None:
    """Without a project, a number alone would say which issue it is. Raises IssueFileError when it is another one."""
    row = connection.execute(load("issues/select_other_projects")).fetchone()
    if row is None:
        return
    line, number, stored_project, stored_at, came_at, found = row
    stored = (
        f"is stored for project {stored_project}: give --project {stored_project}"
        if stored_project
        else f"is stored as an issue of {stored_at.astimezone(UTC):%F %T}, and came as one of {came_at.astimezone(UTC):%F %T}: "
        "give --project NAME for issues of another project"
    )
    raise IssueFileError(
        f"{path}: line {line}: number {number} {stored}. So it is "
        f"with {counted(found, 'number')} of the file; nothing was loaded"
    )


def _refuse_foreign_issues(connection: psycopg.Connection, bad: _BadLines, of_project: Mapping[str, str]) -> None:
    for line, issue, owner in connection.execute(load("issues/delete_foreign_issues"), of_project):
        whose = "one of an application" if owner is None else f"one of project {owner or 'without a name'}"
        bad.add(
            BadLine(line, f"number: expected an issue that was loaded before or none with the id {issue}, came {whose}")
        )


def _counts(connection: psycopg.Connection, query: str, parameters: Mapping[str, str] | None = None) -> tuple[int, int]:
    row: tuple[Any, ...] | None = connection.execute(load(query), parameters).fetchone()
    new, changed = row or (0, 0)
    return new, changed
