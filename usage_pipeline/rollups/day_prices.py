"""The price version of each day: the one of its first roll-up, until somebody sets another (`recost`)."""

from datetime import date

import psycopg

from usage_pipeline.events.pricing import prices as cost
from usage_pipeline.rollups.calendar import Window
from usage_pipeline.storage.sql import load


def price_version_of(connection: psycopg.Connection, day: date) -> str | None:
    """The version of a day; None before its first roll-up."""
    row = connection.execute("select price_version from analytics.day_prices where usage_date = %s", (day,)).fetchone()
    return row[0] if row else None


def pin(connection: psycopg.Connection, day: Window) -> None:
    """Gives a day the version of the package, unless it has one. A transaction of its own, on an autocommit connection."""
    with connection.transaction():
        cost.add_version(connection, cost.package_version(), source=cost.PACKAGE, checksum=None)
        connection.execute(load("rollups/pin_day_prices"), _pinned(day, cost.package_version()))


def repin(connection: psycopg.Connection, day: Window, price_version: str) -> None:
    """Gives a day a stored version, or the one of the package. If that changes, the windows of the day become stale."""
    if price_version == cost.package_version():
        cost.add_version(connection, price_version, source=cost.PACKAGE, checksum=None)
    connection.execute(load("rollups/repin_day_prices"), {**_pinned(day, price_version), "window_start": day.start})


def _pinned(day: Window, price_version: str) -> dict[str, object]:
    return {"usage_date": day.day, "day_start": day.first, "day_end": day.end, "price_version": price_version}
