"""The price version of each day: the one of its first roll-up, until somebody sets another (`recost`)."""

from datetime import date

import psycopg

from usage_pipeline.events.pricing import lookups
from usage_pipeline.rollups.calendar import Window
from usage_pipeline.storage.sql import load


def price_version_of(connection: psycopg.Connection, day: date) -> str | None:
    """The version of a day; None before its first roll-up."""
    row = connection.execute("select price_version from analytics.day_prices where usage_date = %s", (day,)).fetchone()
    return row[0] if row else None


def pin(connection: psycopg.Connection, day: Window) -> None:
    """Gives a day the current version, unless it has one. A transaction of its own, on an autocommit connection."""
    with connection.transaction():
        price_version = lookups.current_version(connection)
        lookups.add_version(connection, price_version)
        connection.execute(load("rollups/pin_day_prices"), _pinned(day, price_version))


def repin(connection: psycopg.Connection, day: Window, price_version: str) -> None:
    """Gives a day a version that can be used. If that changes, the windows of the day become stale."""
    if lookups.is_looked_up(price_version):
        lookups.add_version(connection, price_version)
    connection.execute(load("rollups/repin_day_prices"), {**_pinned(day, price_version), "window_start": day.start})


def _pinned(day: Window, price_version: str) -> dict[str, object]:
    return {"usage_date": day.day, "day_start": day.first, "day_end": day.end, "price_version": price_version}
