"""Answers a question from PostgreSQL: rows of one moment, and as of when they are."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any
from zoneinfo import ZoneInfo

import psycopg

from usage_pipeline.explore.questions import Days, Question
from usage_pipeline.explore.statements import Statement, moments, statement
from usage_pipeline.storage.sql import load

# A question over many rows hashes them in memory, and is over before it would have been compiled. The planner takes millions of
# latencies for thousands, and would sort them on disk. Roll-ups are in the order of their days, and on no disk that turns: the
# index finds the days sooner than a look at all of them. A second process pays sooner than the planner thinks.
PLANNING = (
    "set local work_mem = '64MB'; set local jit = off; set local random_page_cost = 1.1; "
    "set local parallel_setup_cost = 100; set local parallel_tuple_cost = 0.01; "
    "set local enable_sort = off; set local enable_nestloop = off; set local enable_mergejoin = off"
)
# The columns before those of the groups: the number of rows of all pages, and the period.
COLUMNS_BEFORE_GROUPS = 2


@dataclass(frozen=True, slots=True)
class Answer:
    """A page of rows (`statements.Statement` says their columns), how many there are, and the data time."""

    rows: Sequence[tuple[Any, ...]]
    all_rows: int
    as_of: datetime


class TookTooLong(Exception):
    """PostgreSQL was stopped after the time that a question may take. The message is one line."""


@contextmanager
def snapshot(connection: psycopg.Connection, seconds: int | None = None) -> Iterator[None]:
    """Within it, questions are answered from rows of one moment. Raises TookTooLong when one takes so many seconds."""
    try:
        with connection.transaction():
            connection.execute("set transaction isolation level repeatable read, read only")
            connection.execute(PLANNING)
            if seconds is not None:
                connection.execute("select set_config('statement_timeout', %s, true)", (f"{seconds}s",))
            yield
    except psycopg.errors.QueryCanceled:
        if seconds is None:
            raise
        raise TookTooLong(
            f"expected a question that is answered within {seconds} s, came one that takes longer now: ask for fewer days, "
            "groups or metrics"
        ) from None


def read(
    connection: psycopg.Connection,
    question: Question,
    zone: ZoneInfo,
    most: int,
    skipped: int = 0,
    seconds: int | None = None,
) -> Answer:
    """At most `most` rows after the first `skipped`, as of one moment.

    Raises CannotBeAnswered, psycopg.Error, and TookTooLong after so many seconds.
    """
    made = statement(question, zone)
    with snapshot(connection, seconds):
        return _answer(connection, question, zone, made, {"most": most, "skipped": skipped})


def read_within(connection: psycopg.Connection, question: Question, zone: ZoneInfo, most: int) -> Answer:
    """The same within a `snapshot`."""
    return _answer(connection, question, zone, statement(question, zone), {"most": most, "skipped": 0})


def _answer(
    connection: psycopg.Connection, question: Question, zone: ZoneInfo, made: Statement, page: Mapping[str, int]
) -> Answer:
    as_of = data_time(connection, question, zone)
    rows = connection.execute(made.query, {**made.arguments, **page}, prepare=False).fetchall()
    return Answer(rows, rows[0][0] if rows else 0, as_of)


def data_time(connection: psycopg.Connection, question: Question, zone: ZoneInfo) -> datetime:
    """As of when an answer is: all that was stored before is in it."""
    return _data_time(connection, "hour" if question.grain == "hour" else "day", *moments(question.days, zone))


def data_time_of(connection: psycopg.Connection, day: date, zone: ZoneInfo) -> datetime:
    """As of when the roll-up of a day is: all that was stored before is in it."""
    return _data_time(connection, "day", *moments(Days(day, day), zone))


def _data_time(connection: psycopg.Connection, grain: str, start: datetime, end: datetime) -> datetime:
    asked = {"grain": grain, "start": start, "end": end}
    [(as_of,)] = connection.execute(load("explore/select_data_time"), asked).fetchall()
    found: datetime = as_of
    return found
