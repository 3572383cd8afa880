"""The own prices of the demo: one model has prices, one an alias. They are imported as anybody imports theirs, once.

Their names are the demo's (`demo-…`) and exact, so that they hold for no other model. What somebody changed in them stays.
"""

from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from pathlib import Path

import psycopg

from usage_pipeline.events.pricing.lookups import current_version, is_looked_up
from usage_pipeline.events.pricing.own_file import read_own_prices
from usage_pipeline.events.pricing.own_prices import OwnPrice
from usage_pipeline.events.pricing.own_versions import import_prices, newest_version, own_prices
from usage_pipeline.local.traffic.services import ALIASED, OWN_PRICED
from usage_pipeline.rollups.calendar import day_window
from usage_pipeline.rollups.day_prices import repin
from usage_pipeline.settings import Settings
from usage_pipeline.storage.sql import load

FILE = "demo-prices.csv"
OWN_PRICES = (
    OwnPrice(*OWN_PRICED, prices={"input_mtok": Decimal("0.2"), "output_mtok": Decimal("0.6")}),
    OwnPrice(*ALIASED, priced_as="openai/gpt-4o-mini"),
)
_CSV = f"""provider,model,priced_as,input_mtok,output_mtok
{",".join(OWN_PRICED)},,0.2,0.6
{",".join(ALIASED)},openai/gpt-4o-mini,,
"""


def import_own_prices(connection: psycopg.Connection, folder: Path) -> None:
    """Writes the file into the folder, and imports those rows of it that are not there yet: `prices import` of the file."""
    file = folder / FILE
    file.write_text(_CSV, encoding="utf-8")
    known = {row.key for row in own_prices(connection, newest_version(connection))}
    if new := [row for row in read_own_prices(file) if row.key not in known]:
        import_prices(connection, new)


def recost_days(connection: psycopg.Connection, days: Sequence[date], settings: Settings) -> None:
    """Gives days that have prices already those with the demo's own, as `recost` does, where that changes no other price.

    The windows of these days become stale. A day stays as it is if it has prices of another package, or others of one's own.
    """
    newest = newest_version(connection)
    others = _others(connection, newest)
    current = current_version(connection)
    for day, (price_version, own_version) in price_versions(connection, days).items():
        is_equal = is_looked_up(price_version) and _others(connection, own_version) == others
        if price_version != current and is_equal:
            repin(connection, day_window(day, settings.timezone), current)


def price_versions(connection: psycopg.Connection, days: Sequence[date]) -> dict[date, tuple[str, int | None]]:
    """The price version of each of the days that has one, and the version of own prices in it."""
    rows = connection.execute(load("local/select_price_versions"), {"days": list(days)}).fetchall()
    return {day: (price_version, own_version) for day, price_version, own_version in rows}


def _others(connection: psycopg.Connection, own_version: int | None) -> list[OwnPrice]:
    ours = {row.key for row in OWN_PRICES}
    return [row for row in own_prices(connection, own_version) if row.key not in ours]
