"""Where the partitions of `dev` begin: without USAGE_START_DATE, where data begin, so that the UI shows no years of nothing."""

from contextlib import closing
from datetime import date, timedelta

from usage_pipeline.rollups.daily import current_day
from usage_pipeline.settings import Settings
from usage_pipeline.storage.connecting.database import Database
from usage_pipeline.storage.postgres import connect_to
from usage_pipeline.storage.sql import load


def first_partition(database: Database | str, settings: Settings) -> date:
    """USAGE_START_DATE if it is set. Otherwise the day before which an event is too old (RETENTION_DAYS), or the oldest stored
    day if that is earlier; never before the default of the setting.

    Raises PostgresUnavailable.
    """
    default = settings.usage_start_date
    if "usage_start_date" in settings.model_fields_set:
        return default
    start = max(default, current_day(settings.timezone) - timedelta(days=settings.retention_days))
    if isinstance(database, str):
        database = Database(database, settings.connect_timeout_seconds)
    with closing(connect_to(database)) as connection:
        before = {"usage_start": start, "stats_start": settings.stats_start_date}
        [(usage_day, _)] = connection.execute(load("status/select_days_before"), before).fetchall()
    return start if usage_day is None else max(default, usage_day)
