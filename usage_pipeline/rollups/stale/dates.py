"""Dates of rankings and issue statistics: which were made, and which must be made again since their source changed.

Triggers on the sources write `ops.touched_dates`. Whoever makes a date forgets its touches first, and then reads the source.
What commits in between is in the result or leaves a touch, or both.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

import psycopg

from usage_pipeline.storage.sql import load


@dataclass(frozen=True, slots=True)
class StaleDate:
    """A past date that was made, and whose source changed since, last at `touched_at`."""

    table: str
    date: date
    touched_at: datetime


@dataclass(frozen=True, slots=True)
class StaleRange:
    """Dates that follow each other, from `first` to `last`, and that are stale in all of these tables."""

    tables: tuple[str, ...]
    first: date
    last: date
    touched_at: datetime


def begin_dates(connection: psycopg.Connection, table: str, dates: Sequence[date]) -> None:
    """Forgets the touches of these dates, in the transaction that makes them, before it reads their source."""
    connection.execute(load("rollups/forget_touched_dates"), {"table_name": table, "dates": list(dates)})


def mark_made(connection: psycopg.Connection, table: str, dates: Sequence[date]) -> None:
    """Notes that these dates were made, in the same transaction."""
    connection.execute(load("rollups/mark_dates_made"), {"table_name": table, "dates": list(dates)})


def stale_dates(connection: psycopg.Connection, *, today: date) -> list[StaleDate]:
    """Dates before `today` that must be made again, by table and date. At most one for each table and date that was made."""
    return [StaleDate(*row) for row in connection.execute(load("rollups/select_stale_dates"), {"today": today})]


def stale_ranges(dates: Iterable[StaleDate], *, most_days: int) -> list[StaleRange]:
    """The dates as ranges of at most `most_days`, oldest first. Tables that are stale on the same dates share a range."""
    by_date: dict[date, list[StaleDate]] = {}
    for one in dates:
        by_date.setdefault(one.date, []).append(one)
    found: list[StaleRange] = []
    for day in sorted(by_date):
        tables = tuple(sorted(one.table for one in by_date[day]))
        touched_at = max(one.touched_at for one in by_date[day])
        last = found[-1] if found else None
        if (
            last
            and last.tables == tables
            and last.last + timedelta(days=1) == day
            and (day - last.first).days < most_days
        ):
            found[-1] = StaleRange(tables, last.first, day, max(last.touched_at, touched_at))
        else:
            found.append(StaleRange(tables, day, day, touched_at))
    return found
