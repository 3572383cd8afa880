"""CSV files of issues: the header, and the rules of a line. Pure, except that it reads the file line by line."""

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO

from usage_pipeline import values
from usage_pipeline.values import Malformed

REQUIRED_COLUMNS = ("number", "created_at", "updated_at", "closed_at", "state", "comments", "reactions")
_STATUSES = {"open": "OPEN", "closed": "CLOSED"}
# Comments are made up from their count; a slip of the pen must not become a billion rows.
MAX_COMMENTS = 100_000
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}")
# Clocks of others may be ahead by so much.
_AHEAD = timedelta(days=1)


class IssueFileError(Exception):
    """The file cannot be used at all, and nothing of it was stored. The message is one line."""


@dataclass(frozen=True, slots=True)
class Issue:
    """A good line. `title` is None when the file has none."""

    id: str
    title: str | None
    status: str
    view_count: int
    comments: int
    created_at: datetime
    updated_at: datetime
    resolved_at: datetime | None


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that cannot be stored: its number in the file (the first, if it spans lines), what was expected and what came."""

    line: int
    reason: str


def read_issues(path: Path, now: datetime) -> Iterator[tuple[int, Issue | BadLine]]:
    """The lines of the file with their numbers, one at a time.

    Raises IssueFileError when the file does not exist, is not UTF-8, or has no header or no lines.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            is_empty = True
            for found in _lines(path, file, now):
                is_empty = False
                yield found
    except OSError as error:
        raise IssueFileError(f"{path}: expected a CSV file, came: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise IssueFileError(f"{path}: expected UTF-8, came: {error.reason}; nothing was loaded") from None
    if is_empty:
        raise IssueFileError(f"{path}: expected at least one issue, came none")


def parsed_issue(row: Mapping[str, str], now: datetime) -> Issue:
    """The issue of a line. Raises Malformed."""
    number = values.identifier_text("number", row["number"].strip())
    state = row["state"].strip()
    if (status := _STATUSES.get(state)) is None:
        raise Malformed(f"state: expected open or closed, came {_shown(state)}")
    comments = _count("comments", row)
    if comments > MAX_COMMENTS:
        raise Malformed(f"comments: expected at most {MAX_COMMENTS}, came {comments}")
    if comments and len(f"{number}-{comments}") > values.MAX_ID_CHARACTERS:
        # Comments are named by the number and their own.
        longest = values.MAX_ID_CHARACTERS - len(f"-{comments}")
        raise Malformed(f"number: expected at most {longest} characters with comments, came {len(number)}")
    created_at, updated_at = (_time(name, row[name], now) for name in ("created_at", "updated_at"))
    if updated_at < created_at:
        raise Malformed(f"updated_at: expected {created_at:%F %T} (created_at) or later, came {updated_at:%F %T}")
    return Issue(
        id=number,
        title=_title(row.get("title", "")),
        status=status,
        view_count=_count("reactions", row),
        comments=comments,
        created_at=created_at,
        updated_at=updated_at,
        resolved_at=_closed_at(row["closed_at"], status, created_at, now),
    )


def _lines(path: Path, file: IO[str], now: datetime) -> Iterator[tuple[int, Issue | BadLine]]:
    reader = csv.reader(file, strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
    except csv.Error as error:
        raise IssueFileError(f"{path}: line 1: expected a header, came: {error}") from None
    if sorted(header) not in (sorted(REQUIRED_COLUMNS), sorted((*REQUIRED_COLUMNS, "title"))):
        raise IssueFileError(
            f"{path}: line 1: expected the columns {', '.join(REQUIRED_COLUMNS)} and optionally title, "
            f"came {_shown(', '.join(header)) if header else 'none'}"
        )
    while True:
        line = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            # A quote that is never closed takes all that follows with it.
            yield line, BadLine(line, f"expected CSV up to line {reader.line_num}, came: {error}")
            continue
        if row:
            yield line, _issue_or_reason(line, header, row, now)


def _issue_or_reason(line: int, header: Sequence[str], row: Sequence[str], now: datetime) -> Issue | BadLine:
    if len(row) != len(header):
        return BadLine(line, f"expected {len(header)} values, came {len(row)}")
    try:
        return parsed_issue(dict(zip(header, row, strict=True)), now)
    except Malformed as malformed:
        return BadLine(line, str(malformed))


def _closed_at(text: str, status: str, created_at: datetime, now: datetime) -> datetime | None:
    text = text.strip()
    if status == "OPEN":
        if text:
            raise Malformed(f"closed_at: expected none for an open issue, came {_shown(text)}")
        return None
    if not text:
        raise Malformed("closed_at: expected the time at which the issue was closed, came none")
    closed_at = _time("closed_at", text, now)
    if closed_at < created_at:
        raise Malformed(f"closed_at: expected {created_at:%F %T} (created_at) or later, came {closed_at:%F %T}")
    return closed_at


def _time(name: str, text: str, now: datetime) -> datetime:
    text = text.strip()
    try:
        if not _TIME.fullmatch(text):
            raise ValueError
        at = datetime.fromisoformat(text).replace(tzinfo=UTC)
    except ValueError:
        raise Malformed(f"{name}: expected a time YYYY-MM-DD HH:MM:SS in UTC, came {_shown(text)}") from None
    if at > now + _AHEAD:
        raise Malformed(f"{name}: expected a time that has passed, came {text}")
    return at


def _count(name: str, row: Mapping[str, str]) -> int:
    return values.count(name, row[name].strip().encode())


def _title(text: str) -> str | None:
    if "\0" in text:
        raise Malformed(f"title: expected no NUL character, came one at position {text.index(chr(0))}")
    return text.strip() or None


def _shown(text: str) -> str:
    return values.shown(text.encode())
