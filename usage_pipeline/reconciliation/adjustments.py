"""Adds to a counter of a day, or takes off it, by name and with a reason (contracts §8.3): `counters adjust`.

The day, its running total and the note change together. What Redis counts goes on beside it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Literal

import psycopg
from psycopg import sql as compose
from psycopg.types.json import Jsonb

from usage_pipeline.checks.counters import COUNTER_TABLES, CounterTables
from usage_pipeline.rollups.daily import current_day
from usage_pipeline.settings import Settings
from usage_pipeline.storage.archives.manifest import is_only_in_file, raw_span
from usage_pipeline.storage.chunks.locks import reading
from usage_pipeline.storage.chunks.partitions import ensure_partitions, has_partition
from usage_pipeline.storage.sql import column_list, composed, load, relation
from usage_pipeline.values import MAX_COUNT, Malformed, identifier_text

Family = Literal["api_key", "provider", "token", "merchant"]
FAMILIES: tuple[Family, ...] = ("api_key", "provider", "token", "merchant")
_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Adjustment:
    """What is to be changed: `amount` is added to `field` of that day, of a merchant to its metric. Below 0: taken off.

    `provider` is for the family provider alone, whose counters have an API key and a provider.
    """

    family: Family
    counter_id: str
    field: str
    amount: int
    day: date
    provider: str | None = None


@dataclass(frozen=True, slots=True)
class Adjusted:
    """What the day has since, what it had before, and the running total; None for a merchant, which has none."""

    correction_id: int
    before: int
    after: int
    total: int | None


def adjust(
    connection: psycopg.Connection, asked: Adjustment, *, reason: str, corrected_by: str, settings: Settings
) -> Adjusted:
    """Makes one adjustment on an autocommit connection. Each call adds once more.

    Raises Malformed when it cannot be made, with what was expected and what came: an unknown counter or field, a day that is to
    come, archived or dropped, a count that would fall below 0.
    """
    _expect_possible(asked, settings)
    identifier_text("reason", reason.strip())
    note = {"corrected_by": corrected_by, "reason": reason.strip()}
    if asked.family == "merchant":
        return _adjust_merchant(connection, asked, note, settings)
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return _adjust_deltas(connection, asked, COUNTER_TABLES[asked.family], note, settings)
        except (psycopg.errors.CheckViolation, psycopg.errors.UndefinedTable):
            # Its partition was archived between our look and our insert.
            if attempt == _ATTEMPTS:
                raise
    raise AssertionError("unreachable: each attempt returns or raises")


def _expect_possible(asked: Adjustment, settings: Settings) -> None:
    if asked.family not in FAMILIES:
        raise Malformed(f"FAMILY: expected one of {', '.join(FAMILIES)}, came {asked.family}")
    if (asked.provider is not None) != (asked.family == "provider"):
        raise Malformed("--provider: expected with the family provider, and with no other, came the contrary")
    if asked.amount == 0 or abs(asked.amount) > MAX_COUNT:
        raise Malformed(f"--by: expected a number from 1 to {MAX_COUNT}, up or down, came {asked.amount}")
    today = current_day(settings.timezone)
    first = max(settings.usage_start_date, today - timedelta(days=settings.retention_days))
    if not first <= asked.day <= today:
        raise Malformed(
            f"--day: expected a day from {first} (the retention, or USAGE_START_DATE) to {today}, came {asked.day}"
        )


def _adjust_merchant(
    connection: psycopg.Connection, asked: Adjustment, note: Mapping[str, str], settings: Settings
) -> Adjusted:
    key = {"merchant_id": asked.counter_id, "metric_type": asked.field, "day": asked.day}
    try:
        with connection.transaction():
            connection.execute("select ops.expect_time_zone(%s)", (settings.usage_timezone,))
            query = load("merchants/adjust_merchant_usage")
            row = connection.execute(query, {**key, "amount": asked.amount}).fetchone()
            if row is None:
                raise Malformed(f"expected a merchant with that metric, came {asked.counter_id} and {asked.field}")
            return _noted(connection, asked, note, after=row[0], total=None)
    except (psycopg.errors.CheckViolation, psycopg.errors.NumericValueOutOfRange):
        raise Malformed(f"--by: expected a value of 0 to {MAX_COUNT} afterwards, came one outside") from None


def _adjust_deltas(
    connection: psycopg.Connection,
    asked: Adjustment,
    tables: CounterTables,
    note: Mapping[str, str],
    settings: Settings,
) -> Adjusted:
    if asked.field not in tables.counts:
        raise Malformed(f"--field: expected one of {', '.join(tables.counts)}, came {asked.field}")
    keys = dict(zip(tables.keys, (asked.counter_id, asked.provider or ""), strict=False))
    raw_table = tables.daily.raw_table
    pieces = {
        "raw": relation(raw_table),
        "totals": relation(tables.totals),
        "field": compose.Identifier(asked.field),
        "keys": column_list(tables.keys),
        "values": compose.SQL(", ").join(map(compose.Placeholder, tables.keys)),
    }
    arguments = {**keys, "usage_date": asked.day, "amount": asked.amount}
    _expect_day(connection, tables, asked.day)
    ensure_partitions(connection, raw_table, [asked.day])
    with connection.transaction():
        connection.execute("select ops.expect_time_zone(%s)", (settings.usage_timezone,))
        # No day goes away meanwhile. Days before totals, as a drain does it.
        reading(connection, raw_table)
        _expect_day(connection, tables, asked.day)
        touched = {"family": asked.family, "usage_dates": [asked.day]}
        connection.execute(load("drain/touch_days"), touched)
        try:
            with connection.transaction():
                row = connection.execute(composed("reconciliation/adjust_total", **pieces), arguments).fetchone()
        except (psycopg.errors.CheckViolation, psycopg.errors.NumericValueOutOfRange):
            raise Malformed(f"--by: expected a total of 0 to {MAX_COUNT} afterwards, came one outside") from None
        if row is None:
            raise Malformed(f"expected a counter that is stored, came {' and '.join(keys.values())}")
        [(before,)] = connection.execute(composed("reconciliation/sum_day", **pieces), arguments).fetchall()
        after = int(before) + asked.amount
        if not 0 <= after <= MAX_COUNT:
            raise Malformed(f"--by: expected the day to have 0 or more afterwards, came {after}: it has {before} now")
        adjusted = _noted(connection, asked, note, after=after, total=row[0])
        counts = {name: asked.amount if name == asked.field else 0 for name in tables.counts}
        # Only tokens have instances.
        columns = {**keys, **counts, **({"instance_id": ""} if asked.family == "token" else {})}
        insert = composed(
            "reconciliation/insert_adjustment",
            raw=pieces["raw"],
            names=column_list(tuple(columns)),
            values=compose.SQL(", ").join(map(compose.Placeholder, columns)),
        )
        batch_id = f"correction-{adjusted.correction_id}"
        connection.execute(insert, {**columns, "usage_date": asked.day, "batch_id": batch_id})
    return adjusted


def _expect_day(connection: psycopg.Connection, tables: CounterTables, day: date) -> None:
    raw_table = tables.daily.raw_table
    span = (raw_table, *raw_span(day))
    if is_only_in_file(connection, *span):
        raise Malformed(
            f"--day: expected a day whose rows are in the database, came {day}, which is archived: "
            f"`usage-pipeline archive restore {day}` reads it back"
        )
    [(is_dropped,)] = connection.execute("select ops.is_dropped(%s, %s, %s)", span).fetchall()
    # Whatever was removed before there were marks has no partition, and daily rows.
    has_rows = "select exists (select from {daily} where usage_date = %s)"
    query = compose.SQL(has_rows).format(daily=relation(tables.daily.table))
    is_gone = not has_partition(connection, raw_table, day) and connection.execute(query, (day,)).fetchone() == (True,)
    if is_dropped or is_gone:
        raise Malformed(
            f"--day: expected a day whose rows are in the database, came {day}, whose rows were dropped at the end of the "
            "retention: its daily sums are all that is left, and stay"
        )


def _noted(
    connection: psycopg.Connection, asked: Adjustment, note: Mapping[str, str], *, after: int, total: int | None
) -> Adjusted:
    before = after - asked.amount
    name = " ".join(filter(None, (asked.counter_id, asked.provider)))
    arguments = {
        **note,
        "subject": f"{asked.family} {name} {asked.field} {asked.day}",
        "before": Jsonb({"value": before}),
        "after": Jsonb({"value": after}),
        "family": asked.family,
        "usage_date": asked.day,
        "field": asked.field,
        "amount": asked.amount,
    }
    [(number,)] = connection.execute(load("reconciliation/insert_counter_adjustment"), arguments).fetchall()
    return Adjusted(number, before, after, total)
