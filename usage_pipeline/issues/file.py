"""Files of issues: the rules of a row. Pure, except that it reads the file line by line; the formats are in `formats.py`."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path

from usage_pipeline import values
from usage_pipeline.issues.formats import WrongLayout, count_of, rows_of
from usage_pipeline.values import Malformed

# GitHub's states and Jira's usual statuses. Jira's own names for others belong to one of three categories.
_STATUSES = {
    **dict.fromkeys(("open", "opened", "reopened", "to do", "new", "backlog"), "OPEN"),
    **dict.fromkeys(("in progress", "in_progress", "in review"), "IN_PROGRESS"),
    **dict.fromkeys(("resolved", "done"), "RESOLVED"),
    "closed": "CLOSED",
}
_DONE = ("RESOLVED", "CLOSED")
# Comments are made up from their count; a slip of the pen must not become a billion rows.
MAX_COMMENTS = 100_000
# Rankings show titles: ten of a megabyte would be an answer of ten.
MAX_TITLE_CHARACTERS = 1_000
# A count has at most 19 digits, whatever zeros come before.
_MAX_COUNT_CHARACTERS = 40
_NUMBER = re.compile(r"[0-9]{1,18}|[A-Za-z][A-Za-z0-9_]{0,29}-[0-9]{1,18}")
_ISO_TIME = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[ T][0-9]{2}:[0-9]{2}(:[0-9]{2}([.][0-9]{1,6})?)?( ?(Z|UTC|[+-][0-9]{2}:?[0-9]{2}))?"
)
_JIRA_TIME = re.compile(
    r"([0-9]{1,2})/([A-Za-z]{3})/([0-9]{2}|[0-9]{4}) ([0-9]{1,2}):([0-9]{2})(?::([0-9]{2}))?(?: ([AP]M))?"
)
# Not strptime's: those follow the language of the machine.
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
# Clocks of others may be ahead by so much.
_AHEAD = timedelta(days=1)


class IssueFileError(Exception):
    """The file cannot be used at all, and nothing of it was stored. The message is one line."""


@dataclass(frozen=True, slots=True)
class Issue:
    """A good line. `title` and `view_count` are None when the file has none."""

    number: str
    title: str | None
    status: str
    view_count: int | None
    comments: int
    created_at: datetime
    updated_at: datetime
    resolved_at: datetime | None


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that cannot be stored: its number in the file (the first, if it spans lines), what was expected and what came."""

    line: int
    reason: str


def read_issues(path: Path, now: datetime, zone: tzinfo = UTC) -> Iterator[tuple[int, Issue | BadLine]]:
    """The lines of the file with their numbers, one at a time. Times without an offset are of `zone`.

    Raises IssueFileError when the file does not exist, is not UTF-8, has no known columns, or has no lines.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            is_empty = True
            for line, place, row in rows_of(file):
                is_empty = False
                try:
                    if isinstance(row, Malformed):
                        raise row
                    yield line, parsed_issue(row, now, zone)
                except Malformed as malformed:
                    yield line, BadLine(line, f"{place}{malformed}")
    except OSError as error:
        raise IssueFileError(f"{path}: expected a CSV or JSON file, came: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise IssueFileError(f"{path}: expected UTF-8, came: {error.reason}; nothing was loaded") from None
    except WrongLayout as wrong:
        raise IssueFileError(f"{path}: {wrong}") from None
    if is_empty:
        raise IssueFileError(f"{path}: expected at least one issue, came none")


def parsed_issue(row: Mapping[str, str], now: datetime, zone: tzinfo = UTC) -> Issue:
    """The issue of a row, whose names are ours. Raises Malformed."""
    number = row["number"].strip()
    if not _NUMBER.fullmatch(number):
        raise Malformed(f"number: expected digits, or a key such as PROJ-12, came {_shown(number)}")
    status = _status(row["state"].strip(), row.get("status_category", "").strip())
    comments = _count("comments", row["comments"])
    if comments > MAX_COMMENTS:
        raise Malformed(f"comments: expected at most {MAX_COMMENTS}, came {comments}")
    created_at, updated_at = (_time(name, row[name], now, zone) for name in ("created_at", "updated_at"))
    if updated_at < created_at:
        raise Malformed(f"updated_at: expected {created_at:%F %T} (created_at) or later, came {updated_at:%F %T}")
    return Issue(
        number=number,
        title=_title(row.get("title", "")),
        status=status,
        view_count=_count("reactions", row["reactions"]) if "reactions" in row else None,
        comments=comments,
        created_at=created_at,
        updated_at=updated_at,
        resolved_at=_closed_at(row["closed_at"].strip(), status, created_at, now, zone),
    )


def _status(state: str, category: str) -> str:
    found = _STATUSES.get(state.casefold()) or (_STATUSES.get(category.casefold()) if state else None)
    if found is None:
        raise Malformed(f"state: expected open or closed, came {_shown(state)}")
    return found


def _closed_at(text: str, status: str, created_at: datetime, now: datetime, zone: tzinfo) -> datetime | None:
    if status not in _DONE:
        if text:
            raise Malformed(f"closed_at: expected none for an open issue, came {_shown(text)}")
        return None
    if not text:
        raise Malformed("closed_at: expected the time at which the issue was closed, came none")
    closed_at = _time("closed_at", text, now, zone)
    if closed_at < created_at:
        raise Malformed(f"closed_at: expected {created_at:%F %T} (created_at) or later, came {closed_at:%F %T}")
    return closed_at


def _time(name: str, text: str, now: datetime, zone: tzinfo) -> datetime:
    text = text.strip()
    try:
        at = _parsed_time(text, zone).astimezone(UTC)
    except (ValueError, OverflowError):
        raise Malformed(
            f"{name}: expected a time such as 2019-03-18 10:59:01, 2019-03-18T10:59:01Z or 18/Mar/19 10:59 AM, "
            f"came {_shown(text)}"
        ) from None
    if at > now + _AHEAD:
        raise Malformed(f"{name}: expected a time that has passed, came {_shown(text)}")
    return at


def _parsed_time(text: str, zone: tzinfo) -> datetime:
    """Raises ValueError for another format, or a time that there is not."""
    if _ISO_TIME.fullmatch(text):
        # Without the blank that some write before the offset.
        at = datetime.fromisoformat(re.sub(r" ?(UTC|Z)$", "Z", re.sub(r" ([+-])", r"\1", text)))
        return at if at.tzinfo else at.replace(tzinfo=zone)
    match = _JIRA_TIME.fullmatch(text)
    if match is None:
        raise ValueError
    day, month, year, hour, minute, second, half = match.groups()
    hours = int(hour)
    if half:
        if not 1 <= hours <= 12:
            raise ValueError
        hours = hours % 12 + (12 if half == "PM" else 0)
    years = int(year) + (2000 if len(year) == 2 else 0)
    months = _MONTHS.index(month.casefold()) + 1
    return datetime(years, months, int(day), hours, int(minute), int(second or 0), tzinfo=zone)


def _count(name: str, text: str) -> int:
    text = count_of(text.strip())
    if len(text) > _MAX_COUNT_CHARACTERS:
        raise Malformed(f"{name}: expected an integer, came {_shown(text)}")
    return values.count(name, text.encode())


def _title(text: str) -> str | None:
    if "\0" in text:
        raise Malformed(f"title: expected no NUL character, came one at position {text.index(chr(0))}")
    title = text.strip()
    if len(title) > MAX_TITLE_CHARACTERS:
        raise Malformed(f"title: expected at most {MAX_TITLE_CHARACTERS} characters, came {len(title)}")
    return title or None


def _shown(text: str) -> str:
    return values.shown(text.encode())
