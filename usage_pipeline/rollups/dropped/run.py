"""A run of the storage lifecycle, as the roll-ups want it: their numbers are kept before rows are dropped.

Partitions of Dagster begin at USAGE_START_DATE, so no sensor and no schedule asks for what lies before. Rows of that time are
rolled up here, and then leave by RETENTION_DAYS like all others.
"""

import logging
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from functools import partial

import psycopg

from usage_pipeline.rollups.daily import DAILY_TABLES, SourceGoneError, current_day, replace_day, stale_days
from usage_pipeline.rollups.dropped.kept import DROP_RULES
from usage_pipeline.rollups.late_windows import stale_windows
from usage_pipeline.rollups.windows import WindowContendedError, replace_window
from usage_pipeline.settings import Settings
from usage_pipeline.storage.lifecycle.report import LifecycleReport
from usage_pipeline.storage.lifecycle.run import run_storage_lifecycle
from usage_pipeline.storage.postgres import connect, first_line, is_connection_lost
from usage_pipeline.texts import counted

log = logging.getLogger(__name__)

_DAILY = {daily.family: daily for daily in DAILY_TABLES}


def run_lifecycle(settings: Settings, now: datetime | None = None) -> LifecycleReport:
    """Does for every table what is due at `now`. Raises PostgresUnavailable, ArchiveUnavailable or psycopg.Error."""
    now = now or datetime.now(UTC)
    with closing(connect(settings)) as connection:
        rolled_up, problems = _roll_up_before_start(connection, settings, now)
        report = run_storage_lifecycle(connection, settings, rules=DROP_RULES, now=now)
        report.rolled_up += rolled_up
        report.problems += problems
        return report


def _roll_up_before_start(
    connection: psycopg.Connection, settings: Settings, now: datetime
) -> tuple[list[str], list[str]]:
    """Rolls up what lies before USAGE_START_DATE. Returns what was rolled up, and a line for each that failed."""
    rolled_up, problems = list[str](), list[str]()

    def attempt(what: str, replace: Callable[[], object]) -> None:
        try:
            replace()
            rolled_up.append(what)
        except (SourceGoneError, WindowContendedError, psycopg.Error) as error:
            # One that cannot be made keeps neither the others nor the lifecycle waiting.
            if is_connection_lost(error):
                raise
            problems.append(f"{what}: {first_line(error)}")

    today = current_day(settings.timezone)
    for day in stale_days(connection, today=today):
        if day.usage_date < settings.usage_start_date:
            daily = _DAILY[day.family]
            replace = partial(replace_day, connection, daily, day.usage_date, today=today)
            attempt(f"{daily.table} of {day.usage_date}", replace)
    # Weeks and months are listed once their days are made. One around the start has a partition, and may be made twice.
    for grains in (("hour", "day"), ("week", "month")):
        try:
            stale = stale_windows(connection, time_zone=settings.timezone, now=now)
        except ValueError as error:
            # After a change of USAGE_TIMEZONE a week may begin on another day. Storage goes on.
            problems.append(f"USAGE_TIMEZONE: {error}")
            break
        for one in stale:
            if one.window.grain in grains and one.window.day < settings.usage_start_date and not one.is_archived:
                attempt(str(one.window), partial(replace_window, connection, one.window, settings=settings, now=now))
    if rolled_up:
        log.warning(
            "lifecycle: rolled up %s before USAGE_START_DATE=%s; their rows leave by RETENTION_DAYS",
            counted(len(rolled_up), "day or window", "days and windows"),
            settings.usage_start_date,
        )
    return rolled_up, problems
