"""The zone that bounds days: whether PostgreSQL and Python mean the same by its name, and whether it is that of the database.

Who writes by days holds `in_time_zone`, or calls `ops.expect_time_zone` in its transaction: so nobody writes days of two zones.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import psycopg

from usage_pipeline.settings import SettingsError
from usage_pipeline.storage.sql import load

# Events are not older than the first, and their days are not later than a year from now.
_FIRST_DAY = date(2025, 1, 1)
_A_YEAR = timedelta(days=366)
# The lock of ops.expect_time_zone, which a rezone takes for itself.
ZONE_LOCK = 7_120_002


class TimeZoneRefused(SettingsError):
    """The message is one line that names USAGE_TIMEZONE."""


def expect_same_zone(connection: psycopg.Connection, name: str, *, today: date) -> None:
    """Raises TimeZoneRefused when the server does not know the zone, or has other clocks for it up to a year from `today`.

    A server may lack a name, may take one for an abbreviation without summer time (`MET`), or may have older rules than Python.
    """
    days = (min(_FIRST_DAY, today - _A_YEAR), today + _A_YEAR)
    moments = [datetime.fromordinal(day).replace(tzinfo=UTC) for day in range(days[0].toordinal(), days[1].toordinal())]
    try:
        rows = connection.execute(load("storage/select_utc_offsets"), {"moments": moments, "timezone": name}).fetchall()
    except psycopg.errors.InvalidParameterValue:
        raise _unknown(name) from None
    zone = ZoneInfo(name)
    for moment, seconds in rows:
        if moment.astimezone(zone).utcoffset() != timedelta(seconds=seconds):
            raise TimeZoneRefused(
                f"USAGE_TIMEZONE: expected PostgreSQL and Python to have the same clocks in {name}, came others on "
                f"{moment.astimezone(UTC):%Y-%m-%d}; take a name with a slash such as Europe/Vienna, or bring tzdata up to "
                "date on both sides"
            )


@contextmanager
def in_time_zone(connection: psycopg.Connection, name: str) -> Iterator[None]:
    """Days of the database are in this zone, and stay so inside this block. The session holds a lock, not a transaction.

    Raises TimeZoneRefused when they are in another one, or are being made again.
    """
    connection.execute("select pg_advisory_lock_shared(%s)", (ZONE_LOCK,))
    try:
        expect_time_zone(connection, name)
        yield
    finally:
        if not connection.closed and not connection.broken:
            connection.execute("select pg_advisory_unlock_shared(%s)", (ZONE_LOCK,))


def expect_time_zone(connection: psycopg.Connection, name: str) -> None:
    """Raises TimeZoneRefused when the days of the database are in another zone, or are being made again.

    And when the server does not know the zone, as after a change of its image, whose time zone files lack old names.

    On an autocommit connection. A database without our schema, or with an older one, has no such rule yet.
    """
    try:
        connection.execute("select ops.expect_time_zone(%(zone)s), now() at time zone %(zone)s", {"zone": name})
    except psycopg.errors.InvalidParameterValue:
        raise _unknown(name) from None
    except psycopg.errors.ObjectNotInPrerequisiteState as refused:
        raise TimeZoneRefused(refused.diag.message_primary or str(refused)) from None
    except (psycopg.errors.UndefinedFunction, psycopg.errors.InvalidSchemaName):
        return


def _unknown(name: str) -> TimeZoneRefused:
    return TimeZoneRefused(
        f"USAGE_TIMEZONE: expected a time zone that the PostgreSQL server knows, came {name}; "
        "take another name of the zone, or install the server's time zone files (tzdata-legacy)"
    )
