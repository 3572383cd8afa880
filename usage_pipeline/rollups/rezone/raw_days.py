"""Raw rows of counters and request events: each moves to its day of the new zone, by its last use and its batch's claim."""

import logging
from datetime import UTC, date
from zoneinfo import ZoneInfo

import psycopg
from psycopg import sql as compose

from usage_pipeline.rollups.daily import DAILY_TABLES, DailyTable, SourceGoneError, replace_day, stale_days
from usage_pipeline.storage.archives.manifest import is_only_in_file, raw_span
from usage_pipeline.storage.chunks.locks import changing, reading
from usage_pipeline.storage.chunks.partitions import chunks, ensure_partitions, has_partition
from usage_pipeline.storage.chunks.tables import RAW, LifecycleTable
from usage_pipeline.storage.sql import composed, load, relation

_DAILY = {daily.family: daily for daily in DAILY_TABLES}
log = logging.getLogger(__name__)


def move_raw_days(connection: psycopg.Connection, zone: ZoneInfo, problems: list[str]) -> int:
    """Moves the rows of all raw tables, a day of a table in one transaction. Returns how many moved; a repetition moves none.

    Rows stay on their day when the day that they belong to is only in an archive, or is gone without a mark: there they would
    be lost with the next roll-up, or take the place of what is gone. `problems` gets a line for these. They move to a day that
    was dropped: its roll-up adds them to what is stored.
    """
    moved = 0
    for table in RAW:
        # No lifecycle run archives or drops a day of the table meanwhile.
        with changing(connection, table.name):
            for chunk in chunks(connection, table.name):
                moved += _move(connection, table, chunk.start.astimezone(UTC).date(), zone, problems)
    return moved


def replace_moved_days(connection: psycopg.Connection, *, today: date, problems: list[str]) -> int:
    """Makes the daily tables of all days again whose rows changed, and returns how many."""
    # Whatever day it is: a day of the earlier time zone may be one that has not begun.
    stale = stale_days(connection, today=date.max)
    done = 0
    for day in stale:
        try:
            replace_day(connection, _DAILY[day.family], day.usage_date, today=today)
            done += 1
        except SourceGoneError as gone:
            problems.append(str(gone))
    return done


def _move(connection: psycopg.Connection, table: LifecycleTable, day: date, zone: ZoneInfo, problems: list[str]) -> int:
    names = {
        "raw": relation(table.name),
        "used_at": compose.SQL("delta.at" if table.family == "event" else "delta.last_used_at"),
    }
    arguments = {"day": day, "timezone": zone.key}
    found = connection.execute(composed("rollups/rezone/select_new_days", **names), arguments).fetchall()
    wanted = [new for (new,) in found if new != day]
    gone = [new for new in wanted if _is_gone(connection, table, new)]
    problems += [
        f"{table.name}: rows of {new} stay on {day}, where they were in the earlier time zone: the other rows of {new} are "
        f"only in an archive, or were dropped. Read them back with `usage-pipeline archive restore {new}`, then run "
        "`usage-pipeline rezone` again"
        for new in gone
    ]
    days = [new for new in wanted if new not in gone]
    if not days:
        return 0
    ensure_partitions(connection, table.name, days)
    with connection.transaction():
        reading(connection, table.name)
        counts = connection.execute(
            composed("rollups/rezone/move_raw_day", **names), {**arguments, "days": days}
        ).fetchall()
        if table.family in _DAILY:
            connection.execute(
                load("rollups/rezone/touch_raw_days"), {"family": table.family, "days": sorted({day, *days})}
            )
        else:
            connection.execute(load("rollups/rezone/move_request_event_ids"), {"days": days})
    log.info("rezone: %s: rows of %s moved to %s", table.name, day, ", ".join(map(str, days)))
    return sum(count for _, count in counts)


def _is_gone(connection: psycopg.Connection, table: LifecycleTable, day: date) -> bool:
    span = (table.name, *raw_span(day))
    if is_only_in_file(connection, *span):
        return True
    [(is_dropped,)] = connection.execute("select ops.is_dropped(%s, %s, %s)", span).fetchall()
    if is_dropped:
        return False
    daily = _DAILY.get(table.family or "")
    return daily is not None and not has_partition(connection, table.name, day) and _has_rows(connection, daily, day)


def _has_rows(connection: psycopg.Connection, daily: DailyTable, day: date) -> bool:
    query = compose.SQL("select exists (select 1 from {} where usage_date = %s)").format(relation(daily.table))
    row = connection.execute(query, (day,)).fetchone()
    return bool(row and row[0])
