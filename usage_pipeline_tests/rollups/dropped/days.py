"""Days of drained counters in random tests: they are rolled up and read back from files, and their numbers are read."""

from collections.abc import Iterable
from contextlib import suppress
from datetime import date

import psycopg

from usage_pipeline.rollups.daily import DAILY_TABLES, SourceGoneError, replace_day, stale_days
from usage_pipeline.settings import Settings
from usage_pipeline.storage.archives.files import restore
from usage_pipeline.storage.archives.manifest import Archive
from usage_pipeline.storage.archives.store import archive_store

_NUMBERS = """
select 'api_key', usage_date, api_key_id, array[total_requests, total_file_size] from usage.api_key_daily
union all
select 'provider', usage_date, api_key_id || ':' || provider, array[upload_count, total_file_size] from usage.provider_daily
union all
select 'token', usage_date, token_id, array[usage_count] from usage.token_daily
"""
BY_FAMILY = {daily.family: daily for daily in DAILY_TABLES}


def roll_up_stale_days(connection: psycopg.Connection, *, today: date) -> int:
    """As the sensor of late days does it. Returns how many."""
    stale = stale_days(connection, today=today)
    for one in stale:
        replace_day(connection, BY_FAMILY[one.family], one.usage_date, today=today)
    return len(stale)


def make_again(connection: psycopg.Connection, family: str, day: date, *, today: date) -> None:
    """A backfill of a day, whatever state it is in. Only rows that are in a file may stop it."""
    with suppress(SourceGoneError):
        replace_day(connection, BY_FAMILY[family], day, today=today)


def read_back(connection: psycopg.Connection, settings: Settings, archives: Iterable[Archive]) -> None:
    """As `usage-pipeline archive restore` does it."""
    store = archive_store(settings)
    assert store is not None
    for archive in archives:
        restore(connection, store, archive, interval_hours=settings.chunk_time_interval_hours)


def stored_days(connection: psycopg.Connection) -> dict[tuple[str, date, str], tuple[int, ...]]:
    """Family, day and id (a provider's has its provider at the end), and their counts."""
    return {(family, day, name): tuple(counts) for family, day, name, counts in connection.execute(_NUMBERS)}
