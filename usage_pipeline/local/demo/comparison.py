"""What the demo wrote beside what is stored of it. Others may have written before, and may write meanwhile.

Every id that the demo gives out ends with its mark, so that its counts can be told apart from all others.
"""

from collections import Counter
from dataclasses import dataclass
from datetime import date

import psycopg

from usage_pipeline.local.traffic.counters import Counts, Written
from usage_pipeline.rollups.calendar import day_window
from usage_pipeline.rollups.issue_stats import replace_issue_stats
from usage_pipeline.settings import Settings
from usage_pipeline.storage.sql import load

# The count of each family that says how much was used; all its other counts are compared as well.
_MAIN_COUNTS = {
    "api_key": "total_requests",
    "provider": "upload_count",
    "token": "usage_count",
    "event": "events",
    "merchant": "metric_value",
    "usage_event": "requests",
    "usage_daily": "requests",
    "issue": "created_count",
}


@dataclass(frozen=True, slots=True)
class FamilyResult:
    """The result of a family: written = stored + refused + difference for its main count. `difference` is over all its counts.

    Refused input becomes a dead letter. Over HTTP, the client gets an error instead.
    """

    family: str
    written: int
    stored: int
    refused: int
    difference: int


@dataclass(frozen=True, slots=True)
class Ours:
    """What is the demo's in the database: ids that end with `mark`, the token that sent its events, issues of some days."""

    mark: str
    token_id: str
    issue_days: tuple[date, date]


def compare(
    connection: psycopg.Connection, ours: Ours, written: Written, rejected_events: int, settings: Settings
) -> list[FamilyResult]:
    """Compares both sides, family by family. `rejected_events` is what the HTTP service refused."""
    stored = _stored(connection, ours)
    stored.update(_issues(connection, ours, written.counts, settings))
    text = {"text": ours.mark.encode()}
    letters: Counter[str] = Counter(dict(connection.execute(load("local/count_dead_letters"), text).fetchall()))
    # Nobody but the client that sent it hears of it.
    letters["usage_event"] = rejected_events
    return [_compare(family, written, stored, letters) for family in _MAIN_COUNTS]


def _stored(connection: psycopg.Connection, ours: Ours) -> Counts:
    arguments = {"ids": f"%-{ours.mark}", "token_ids": [ours.token_id]}
    rows = connection.execute(load("local/select_stored_counts"), arguments)
    return Counter({(family, key, name): value for family, key, name, value in rows})


def _issues(connection: psycopg.Connection, ours: Ours, written: Counts, settings: Settings) -> Counts:
    """What the statistics count of our issues.

    If somebody changed other issues of these days since the statistics were made, the days are made again, in the same snapshot
    in which we look: nothing can change in between.
    """
    first, last = ours.issue_days
    arguments = {
        "issue_ids": f"demo-{ours.mark}-%",
        "first": day_window(first, settings.timezone).first,
        "until": day_window(last, settings.timezone).end,
        "first_day": first,
        "last_day": last,
    }
    with connection.transaction():
        connection.execute("set transaction isolation level repeatable read")
        found = _issue_counts(connection, arguments)
        if any(written[key] != value for key, value in found.items()):
            replace_issue_stats(connection, first, last, settings=settings)
            found = _issue_counts(connection, arguments)
    return found


def _issue_counts(connection: psycopg.Connection, arguments: dict[str, object]) -> Counts:
    cursor = connection.execute(load("local/select_issue_counts"), arguments)
    [row] = cursor.fetchall()
    names = [column.name for column in cursor.description or ()]
    return Counter({("issue", "all", name): int(value) for name, value in zip(names, row, strict=True)})


def _compare(family: str, written: Written, stored: Counts, letters: Counter[str]) -> FamilyResult:
    main = _MAIN_COUNTS[family]
    ours = {key: value for key, value in written.counts.items() if key[0] == family}
    theirs = {key: value for key, value in stored.items() if key[0] == family and value}
    difference = sum(abs(ours.get(key, 0) - theirs.get(key, 0)) for key in ours.keys() | theirs.keys())
    malformed = written.malformed[family]
    return FamilyResult(
        family=family,
        written=sum(value for key, value in ours.items() if key[2] == main) + malformed,
        stored=sum(value for key, value in theirs.items() if key[2] == main),
        refused=letters[family],
        difference=difference + abs(malformed - letters[family]),
    )
