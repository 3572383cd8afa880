"""Events with any usage, put into the tables as ingest does, and prices of models as the package's own calc_price has them.

What one more of a unit costs is asked of calc_price: it is how much more a request costs that has some more of it.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

import psycopg
from genai_prices import Usage, calc_price
from genai_prices.data_units import unit_data
from psycopg.types.json import Jsonb

from usage_pipeline.events.pricing.prices import package_version
from usage_pipeline.rollups.window_tables import UNIT_COLUMNS
from usage_pipeline.settings import Settings
from usage_pipeline_tests.rigs.windows import event_at, store_events

DIMENSIONS: Mapping[str, Mapping[str, str]] = {name: unit["dimensions"] for name, unit in unit_data.items()}
COUNTED = tuple(name for name in DIMENSIONS if name != "requests")
# So many of each kind of token that is no other kind: no part is over its whole, and no prompt too long for its usual price.
_OF_EACH = 1_000
_MORE = 100
_PLAIN = ("input_tokens", "output_tokens", *UNIT_COLUMNS)
_BY_SQL = frozenset({"usage", "service_tier", "cost_usd", "unattributed_tokens", "total_tokens", "tags"})
Usages = Mapping[str, int | float | None]


def package_cost(provider: str, model: str, at: datetime, usage: Usages, tier: str | None = None) -> Decimal:
    """What the package says that this usage costs. Raises ValueError when it says that it cannot be known."""
    told = Usage(**{name: count for name, count in usage.items() if count is not None})
    context = {"service_tier": tier, "processing": tier, "speed": tier} if tier else None
    calculated = calc_price(told, model, provider_id=provider, genai_request_timestamp=at, price_context=context)
    return calculated.total_price


def is_below(unit: str, other: str) -> bool:
    """Whether all of `unit` is also `other`."""
    return unit != other and DIMENSIONS[other].items() <= DIMENSIONS[unit].items()


def rates(provider: str, model: str, at: datetime, tier: str | None = None) -> dict[str, Decimal]:
    """US dollars that one more of each unit adds; units that add nothing are left out."""
    whole = {name: _OF_EACH * (1 + sum(is_below(one, name) for one in COUNTED)) for name in COUNTED}
    before = package_cost(provider, model, at, whole, tier)
    added = {
        name: (package_cost(provider, model, at, {**whole, name: whole[name] + _MORE}, tier) - before) / _MORE
        for name in COUNTED
    }
    return {name: usd.normalize() for name, usd in added.items() if usd}


def give_price(
    postgres: psycopg.Connection, provider: str, model: str, at: datetime, tier: str | None = None, **columns: Any
) -> dict[str, Decimal]:
    """Stores the rates of a model, for all times, as the package's version of now. Returns them."""
    rate = rates(provider, model, at, tier)
    put_price(
        postgres,
        provider,
        model,
        tier,
        {
            "input_usd": rate.get("input_tokens", Decimal(0)) * 10**6,
            "output_usd": rate.get("output_tokens", Decimal(0)) * 10**6,
            "request_usd": package_cost(provider, model, at, {}, tier),
            **{f"{name.removesuffix('_tokens')}_usd": rate.get(name, Decimal(0)) * 10**6 for name in UNIT_COLUMNS},
            "other_usd": _json({n: usd for n, usd in rate.items() if n not in ("input_tokens", "output_tokens")}),
            **columns,
        },
    )
    return rate


def put_price(
    postgres: psycopg.Connection, provider: str, model: str, tier: str | None, columns: Mapping[str, Any]
) -> None:
    """Stores a price row, and that the model was looked up."""
    version = package_version()
    postgres.execute(
        "insert into analytics.price_versions (price_version, source) values (%s, 'genai-prices') on conflict do nothing",
        (version,),
    )
    key = {"price_version": version, "provider": provider, "model": model, "service_tier": tier or ""}
    _insert(postgres, "analytics.model_lookups", {**key, "priced_as": f"{provider}/{model}"})
    _insert(postgres, "analytics.model_prices", {**key, **columns})


def store_usage(postgres: psycopg.Connection, settings: Settings, now: datetime, at: datetime, **members: Any) -> None:
    """Stores an event with members as contracts §8.1 has them; `usage` is complete."""
    store_usages(postgres, settings, now, [event_at(at, **members)])


def store_usages(
    postgres: psycopg.Connection, settings: Settings, now: datetime, events: Sequence[Mapping[str, Any]]
) -> None:
    """Stores such events."""
    plain = [{name: value for name, value in event.items() if name not in _BY_SQL} for event in events]
    store_events(postgres, settings, now, *plain)
    with postgres.cursor() as cursor:
        for event in events:
            usage: Usages = event.get("usage", {})
            others = {name: count for name, count in usage.items() if name not in _PLAIN}
            values = {
                **{name: count for name, count in usage.items() if name in _PLAIN},
                **{name: event[name] for name in _BY_SQL - {"usage"} if name in event},
                **({"other_units": json.dumps(others)} if others else {}),
                **({"tags": Jsonb(event["tags"])} if "tags" in event else {}),
            }
            if values:
                assigned = ", ".join(f"{name} = %({name})s" for name in values)
                where = "event_id = %(id)s and event_time = %(at)s"
                ids = {"id": event["event_id"], "at": event["event_time"]}
                cursor.execute(f"update analytics.usage_events set {assigned} where {where}", {**values, **ids})


def _insert(postgres: psycopg.Connection, table: str, row: Mapping[str, Any]) -> None:
    names, places = ", ".join(row), ", ".join(f"%({name})s" for name in row)
    postgres.execute(f"insert into {table} ({names}) values ({places}) on conflict do nothing", row)


def _json(usd: Mapping[str, Decimal]) -> str:
    """With all digits: floats have not enough."""
    return "{" + ", ".join(f'"{name}": {price:f}' for name, price in usd.items()) + "}"
