"""Price versions, and the prices of the models of our events in them. A model is looked up when a version first meets it.

The name of a version is the package with its version, and the version of own prices if there are any. What it has of a model
never changes, so that the same version gives the same costs. Each day has one price version (`rollups.day_prices`).
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

import msgspec
import psycopg

from usage_pipeline.events.pricing.cells import cells
from usage_pipeline.events.pricing.layers import layered
from usage_pipeline.events.pricing.own_prices import OwnPrice
from usage_pipeline.events.pricing.own_versions import has_version, newest_version, own_prices
from usage_pipeline.events.pricing.prices import PACKAGE, Price, package_version
from usage_pipeline.storage.sql import load

_OWN = " + own "
_VERSION = re.compile(rf"({PACKAGE} .+?)(?:{re.escape(_OWN)}([1-9][0-9]{{0,8}}))?")
# What a model of our events is priced as if no price is the package's.
_ALL_OWN = "own"


@dataclass(frozen=True, slots=True)
class Lookup:
    """What is known of a model in a tier. `priced_as` is the package's model, or "own"; None, without prices: nothing is."""

    provider: str
    model: str
    service_tier: str
    priced_as: str | None
    prices: tuple[Price, ...]


def current_version(connection: psycopg.Connection) -> str:
    """The price version of new days: the installed package, and the newest own prices."""
    own = newest_version(connection)
    return package_version() if own is None else f"{package_version()}{_OWN}{own}"


def is_looked_up(price_version: str) -> bool:
    """Whether models can be looked up in the version: its package is the installed one."""
    parts = _VERSION.fullmatch(price_version)
    return parts is not None and parts[1] == package_version()


def has_price_version(connection: psycopg.Connection, price_version: str) -> bool:
    """Whether the version can be used: it is stored, or it can be looked up."""
    own = _own_version(price_version)
    if is_looked_up(price_version):
        return own is None or has_version(connection, own)
    query = "select 1 from analytics.price_versions where price_version = %s"
    return connection.execute(query, (price_version,)).fetchone() is not None


def add_version(connection: psycopg.Connection, price_version: str) -> None:
    """Stores a version that can be looked up, unless it is stored."""
    parameters = {"price_version": price_version, "source": PACKAGE, "own_version": _own_version(price_version)}
    connection.execute(load("events/pricing/insert_price_version"), parameters)


def look_up(provider: str, model: str, service_tier: str = "", own: Sequence[OwnPrice] = ()) -> Lookup:
    """Finds the prices of a model in a tier, both as events name them, in own prices and in the package."""
    known = layered(provider, model, service_tier, own)
    prices = tuple(cells(known))
    if not prices:
        return Lookup(provider, model, service_tier, None, ())
    names = {one.name for one in known.all_found}
    taken = {why["of"] for price in prices for why in price.explained.values() if "of" in why}
    priced_as = sorted(names & taken) or sorted(names if not taken else ()) or [_ALL_OWN]
    return Lookup(provider, model, service_tier, ", ".join(priced_as), prices)


def add_lookups(connection: psycopg.Connection, price_version: str, models: Iterable[tuple[str, str, str]]) -> None:
    """Stores the prices of these (provider, model, service tier or '') under the version, on an autocommit connection.

    Safe to repeat, and from two processes at once: both find the same. The version must be one that is_looked_up.
    """
    own = own_prices(connection, _own_version(price_version))
    lookups = [look_up(*names, own) for names in sorted(set(models))]
    with connection.transaction():
        add_version(connection, price_version)
        with connection.cursor() as cursor:
            cursor.executemany(
                load("events/pricing/insert_model_lookup"),
                [
                    {
                        "price_version": price_version,
                        "provider": lookup.provider,
                        "model": lookup.model,
                        "service_tier": lookup.service_tier,
                        "priced_as": lookup.priced_as,
                    }
                    for lookup in lookups
                ],
            )
            cursor.executemany(
                load("events/pricing/insert_model_price"),
                [{"price_version": price_version, **_columns(price)} for lookup in lookups for price in lookup.prices],
            )


def add_earlier_lookups(connection: psycopg.Connection, price_version: str) -> None:
    """Looks up in a version what the one before was asked for, so that the live view has prices before the next roll-up."""
    query = load("events/pricing/select_earlier_lookups")
    models = connection.execute(query, {"price_version": price_version}).fetchall()
    add_lookups(connection, price_version, models)


def _own_version(price_version: str) -> int | None:
    parts = _VERSION.fullmatch(price_version)
    return None if parts is None or parts[2] is None else int(parts[2])


def _columns(price: Price) -> dict[str, object]:
    numbers = msgspec.json.Encoder(decimal_format="number")
    return {
        **asdict(price),
        "any_of": None if price.any_of is None else list(price.any_of),
        # As text: JSON of psycopg has no decimals.
        "other_usd": numbers.encode(price.other_usd).decode(),
        "explained": msgspec.json.encode(price.explained).decode(),
    }
