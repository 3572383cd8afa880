"""Versions of prices of one's own in the database. An import makes a new one of all rows; none ever changes."""

from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from decimal import Decimal

import msgspec
import psycopg

from usage_pipeline.events.pricing.coverage import coverage_faults
from usage_pipeline.events.pricing.own_file import refuse
from usage_pipeline.events.pricing.own_prices import OwnPrice
from usage_pipeline.storage.sql import load


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import did. `version` is the newest one afterwards; it is the one before if nothing changed."""

    version: int
    rows: int
    added: int
    changed: int
    removed: int


def newest_version(connection: psycopg.Connection) -> int | None:
    """The number of the newest version; None: there never were own prices."""
    row = connection.execute("select max(own_version) from analytics.own_price_versions").fetchone()
    return row[0] if row else None


def has_version(connection: psycopg.Connection, version: int) -> bool:
    query = "select 1 from analytics.own_price_versions where own_version = %s"
    return connection.execute(query, (version,)).fetchone() is not None


def own_prices(connection: psycopg.Connection, version: int | None) -> tuple[OwnPrice, ...]:
    """The rows of a version, in the order of their names; none for None."""
    if version is None:
        return ()
    rows = connection.execute(load("events/pricing/select_own_prices"), {"own_version": version}).fetchall()
    return tuple(
        OwnPrice(provider, model, tier, start, end, priced_as, factor, {key: Decimal(usd) for key, usd in prices})
        for provider, model, tier, start, end, priced_as, factor, prices in rows
    )


def import_prices(
    connection: psycopg.Connection, rows: Collection[OwnPrice], *, replaces_all: bool = False
) -> Imported:
    """Puts rows in the place of those with the same key, or of all, on an autocommit connection, as a new version.

    If that changes nothing, there is no new version. Raises PriceTableError when requests of a model could not be priced then.
    """
    with connection.transaction():
        # Of two imports at once, the second one begins with what the first one made.
        connection.execute("lock table analytics.own_price_versions in exclusive mode")
        newest = newest_version(connection)
        before = {row.key: row for row in own_prices(connection, newest)}
        now = {row.key: row for row in rows}
        after = now if replaces_all else before | now
        added, removed = len(after.keys() - before.keys()), len(before.keys() - after.keys())
        changed = sum(before[key] != after[key] for key in before.keys() & after.keys())
        if added or removed or changed or newest is None:
            refuse("own prices", list(coverage_faults(tuple(after.values()))))
            newest = (newest or 0) + 1
            _insert(connection, newest, after.values())
    return Imported(newest, len(after), added, changed, removed)


def _insert(connection: psycopg.Connection, version: int, rows: Iterable[OwnPrice]) -> None:
    each = [{**asdict(row), "prices": _as_json(row), "own_version": version} for row in rows]
    connection.execute(
        "insert into analytics.own_price_versions (own_version, rows) values (%s, %s)", (version, len(each))
    )
    with connection.cursor() as cursor:
        cursor.executemany(load("events/pricing/insert_own_price"), each)


def _as_json(row: OwnPrice) -> str:
    return msgspec.json.Encoder(decimal_format="number").encode(row.prices).decode()
