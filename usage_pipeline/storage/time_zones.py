"""Whether PostgreSQL and Python mean the same by the name of a time zone: both compute the bounds of days and hours."""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import psycopg

from usage_pipeline.settings import SettingsError
from usage_pipeline.storage.sql import load

# Events are not older than the first, and their days are not later than a year from now.
_FIRST_DAY = date(2025, 1, 1)
_A_YEAR = timedelta(days=366)


class TimeZoneRefused(SettingsError):
    """The message is one line that names USAGE_TIMEZONE."""


def expect_same_zone(connection: psycopg.Connection, name: str, *, today: date) -> None:
    """Raises TimeZoneRefused when the server does not know the zone, or has other clocks for it from 2025 to a year from `today`.

    A server may lack a name, may take one for an abbreviation without summer time (`MET`), or may have older rules than Python.
    """
    days = (min(_FIRST_DAY, today - _A_YEAR), today + _A_YEAR)
    moments = [datetime.fromordinal(day).replace(tzinfo=UTC) for day in range(days[0].toordinal(), days[1].toordinal())]
    try:
        rows = connection.execute(load("storage/select_utc_offsets"), {"moments": moments, "timezone": name}).fetchall()
    except psycopg.errors.InvalidParameterValue:
        raise TimeZoneRefused(
            f"USAGE_TIMEZONE: expected a time zone that the PostgreSQL server knows, came {name}; "
            "take another name of the zone, or install the server's time zone files (tzdata-legacy)"
        ) from None
    zone = ZoneInfo(name)
    for moment, seconds in rows:
        if moment.astimezone(zone).utcoffset() != timedelta(seconds=seconds):
            raise TimeZoneRefused(
                f"USAGE_TIMEZONE: expected PostgreSQL and Python to have the same clocks in {name}, came others on "
                f"{moment.astimezone(UTC):%Y-%m-%d}; take a name with a slash such as Europe/Vienna, or bring tzdata up to date "
                "on both sides"
            )
