"""Daily tables of drained counters. Each day is replaced as a whole from the raw rows, so a re-run is safe.

When the raw rows of a day were dropped, its daily rows are all that is left. They stay, and late rows are added to them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
from psycopg.types.json import Jsonb

from usage_pipeline.storage.archives.manifest import is_only_in_file, raw_span
from usage_pipeline.storage.chunks.locks import reading
from usage_pipeline.storage.chunks.partitions import has_partition
from usage_pipeline.storage.sql import load


@dataclass(frozen=True, slots=True)
class DailyTable:
    """A daily table: `sql/rollups/replace_<name>.sql` makes it from the family's raw table."""

    name: str
    family: str
    raw_table: str

    @property
    def table(self) -> str:
        return f"usage.{self.name}"


DAILY_TABLES = (
    DailyTable("api_key_daily", "api_key", "raw.api_key_deltas"),
    DailyTable("provider_daily", "provider", "raw.provider_deltas"),
    DailyTable("token_daily", "token", "raw.token_deltas"),
)


class SourceGoneError(Exception):
    """The source of a day or window is archived or gone, but its roll-up is there. The roll-up stays as it is."""


@dataclass(frozen=True, slots=True)
class DayReport:
    """The result of replacing a day. `sums` has `rows` and the total of each count. `is_late`: a past day changed.

    `is_all_there_is`: the raw rows were dropped, no others came, and the daily rows stay as they are.
    """

    usage_date: date
    rows: int
    changed_rows: int
    sums: dict[str, int]
    is_late: bool
    is_all_there_is: bool = False


@dataclass(frozen=True, slots=True)
class StaleDay:
    """A past day whose daily table lacks something. `version` goes up with each batch that changes the day."""

    family: str
    usage_date: date
    version: int


def current_day(time_zone: ZoneInfo) -> date:
    """The current day in this time zone, USAGE_TIMEZONE."""
    return datetime.now(UTC).astimezone(time_zone).date()


def replace_day(connection: psycopg.Connection, daily: DailyTable, day: date, *, today: date) -> DayReport:
    """Replaces one day of a daily table by the sums of its raw rows, in one transaction on an autocommit connection.

    If a day before `today` was rolled up and changes, ops.late_data gets a row. If the raw rows of the day were dropped, the
    daily rows stay; when others came since, the sums of the daily rows first go back to the raw table, once.
    Raises SourceGoneError when raw rows are only in an archive file, or are missing without a mark that they were dropped.
    """
    day_of = {"usage_date": day}
    with connection.transaction():
        connection.execute("select pg_advisory_xact_lock(hashtext(%s), %s)", (daily.table, day.toordinal()))
        reading(connection, daily.raw_table)
        # The version is read before the roll-up takes its snapshot. If a batch commits in between, the roll-up contains it, but
        # the batch still counts as not seen.
        version, was_rolled = _version(connection, daily.family, day)
        rolled = {"family": daily.family, "usage_date": day, "version": version}
        before = _sums(connection, daily, day)
        if _is_dropped(connection, daily, day):
            if not has_partition(connection, daily.raw_table, day):
                connection.execute(load("rollups/mark_day_rolled"), rolled)
                return DayReport(day, before["rows"], 0, before, is_late=False, is_all_there_is=True)
            _return_sums(connection, daily, day)
        elif before["rows"] and not has_partition(connection, daily.raw_table, day):
            raise _gone(daily, day, before, "none")
        row = connection.execute(load(f"rollups/replace_{daily.name}"), day_of).fetchone()
        rows, changed_rows = row or (0, 0)
        after = _sums(connection, daily, day)
        is_late = day < today and was_rolled and before != after
        if is_late:
            late = {"table_name": daily.table, "usage_date": day, "before": Jsonb(before), "after": Jsonb(after)}
            connection.execute(load("rollups/insert_late_data"), late)
        connection.execute(load("rollups/mark_day_rolled"), rolled)
    return DayReport(day, rows, changed_rows, after, is_late)


def stale_days(connection: psycopg.Connection, *, today: date) -> list[StaleDay]:
    """Days before `today` that must be made again, oldest first."""
    rows = connection.execute(load("rollups/select_stale_days"), {"today": today})
    return [StaleDay(family, day, version) for family, day, version in rows]


def _is_dropped(connection: psycopg.Connection, daily: DailyTable, day: date) -> bool:
    """Whether the raw rows of a day were dropped. Raises SourceGoneError when they are only in an archive file."""
    span = (daily.raw_table, *raw_span(day))
    if is_only_in_file(connection, *span):
        raise _gone(daily, day, _sums(connection, daily, day), "rows that are only in an archive file")
    [(is_dropped,)] = connection.execute("select ops.is_dropped(%s, %s, %s)", span).fetchall()
    return bool(is_dropped)


def _return_sums(connection: psycopg.Connection, daily: DailyTable, day: date) -> None:
    """Puts what is stored of a dropped day back into the raw table. From then on it is a day like any other."""
    connection.execute(load(f"rollups/dropped/return_{daily.name}"), {"usage_date": day})
    start, end = raw_span(day)
    connection.execute(load("rollups/dropped/return_span"), {"table": daily.raw_table, "start": start, "end": end})


def _gone(daily: DailyTable, day: date, stored: Mapping[str, int], came: str) -> SourceGoneError:
    return SourceGoneError(
        f"{daily.table}: expected {daily.raw_table} to have a partition for {day}, came {came}, while "
        f"{stored['rows']} daily rows are stored. They stay as they are. Read the source back with "
        f"`usage-pipeline archive restore {day}`"
    )


def _version(connection: psycopg.Connection, family: str, day: date) -> tuple[int, bool]:
    row = connection.execute(
        "select version, rolled_at is not null from ops.touched_days where family = %s and usage_date = %s",
        (family, day),
    ).fetchone()
    return row or (0, False)


def _sums(connection: psycopg.Connection, daily: DailyTable, day: date) -> dict[str, int]:
    row: tuple[Any, ...] | None = connection.execute(load(f"rollups/sum_{daily.name}"), {"usage_date": day}).fetchone()
    return {name: int(value) for name, value in row[0].items()} if row else {"rows": 0}
