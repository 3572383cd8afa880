"""The status of a day of merchant usage (contracts §1.4, §6): what is stored, since when, and what Redis has more."""

from dataclasses import dataclass
from datetime import date, datetime

import psycopg
from psycopg.rows import class_row, tuple_row

from usage_pipeline.merchants.aggregation import beside_stored, stage_counters
from usage_pipeline.merchants.counters import CounterKey, Reader, find_keys, open_servers, read_counters
from usage_pipeline.merchants.report import MOST_LISTED
from usage_pipeline.settings import Settings
from usage_pipeline.storage.sql import load


@dataclass(frozen=True, slots=True)
class MetricStatus:
    """The stored rows of one metric: one per merchant, and their sum."""

    metric_type: str
    merchants: int
    total: int
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class LastAggregation:
    """The last aggregation of the whole day, from the ledger."""

    batch_id: str
    applied_at: datetime
    keys: int
    stored_rows: int
    dead_letters: int
    drained_by: str


@dataclass(frozen=True, slots=True)
class MissingCounter:
    """A counter whose stored value is too low. `reads` is the counter plus its offset from resets. `stored` None: no row."""

    key: CounterKey
    reads: int
    stored: int | None


@dataclass(frozen=True, slots=True)
class OpenRegression:
    """A counter that was lower than its stored value. `counter_value` is its last value plus its offset from resets."""

    regression_id: int
    merchant_id: str
    date: date
    metric_type: str
    stored_value: int
    counter_value: int
    detected_at: datetime
    last_seen_at: datetime


@dataclass(frozen=True, slots=True)
class DayStatus:
    """The status of a day. `keys_in_redis` counts all its keys, `refused` the keys that cannot be stored.

    `missing` and `regressions` list the first MOST_LISTED of `missing_count` and `regression_count`.
    """

    day: date
    metrics: tuple[MetricStatus, ...]
    merchants: int
    last_aggregation: LastAggregation | None
    keys_in_redis: int
    refused: int
    missing_count: int
    missing: tuple[MissingCounter, ...]
    regression_count: int
    regressions: tuple[OpenRegression, ...]

    @property
    def rows(self) -> int:
        return sum(metric.merchants for metric in self.metrics)

    @property
    def is_complete(self) -> bool:
        """Whether everything that Redis has of the day is stored, and nothing waits for a decision."""
        return not (self.missing_count or self.refused or self.regression_count)


def day_status(settings: Settings, day: date) -> DayStatus:
    """Compares Redis with what is stored for the day. Changes nothing.

    Raises PostgresUnavailable or RedisUnavailable.
    """
    with open_servers(settings) as (postgres, redis):
        metrics, last = _metrics(postgres, day), _last_aggregation(postgres, day)
        merchants = _count(postgres, "merchants/count_merchants_of_day", day)
        regression_count = _count(postgres, "merchants/count_merchant_regressions", day)
        regressions = open_regressions(postgres, day=day, at_most=MOST_LISTED)
        keys_in_redis, refused, missing_count, missing = _compare(postgres, redis, day)
    return DayStatus(
        day,
        metrics,
        merchants,
        last,
        keys_in_redis,
        refused,
        missing_count,
        missing,
        regression_count,
        tuple(regressions),
    )


def open_regressions(
    postgres: psycopg.Connection,
    *,
    merchant_id: str | None = None,
    day: date | None = None,
    metric_type: str | None = None,
    at_most: int | None = None,
) -> list[OpenRegression]:
    """Open regressions in the order of their keys. A filter that is None matches all."""
    arguments = {"merchant_id": merchant_id, "day": day, "metric_type": metric_type, "at_most": at_most}
    with postgres.cursor(row_factory=class_row(OpenRegression)) as cursor:
        return cursor.execute(load("merchants/select_merchant_regressions"), arguments).fetchall()


def _compare(
    postgres: psycopg.Connection, redis: Reader, day: date
) -> tuple[int, int, int, tuple[MissingCounter, ...]]:
    keys = refused = missing_count = 0
    missing: list[MissingCounter] = []
    postgres.execute(load("merchants/stage_merchant"))
    for chunk in find_keys(redis, frozenset([day])):
        reading = read_counters(redis, [found for found in chunk if found.day is not None])
        keys += len(reading.counters) + len(reading.refused)
        refused += len(reading.refused)
        with postgres.transaction():
            stage_counters(postgres, reading)
            rows = postgres.execute(
                beside_stored("merchants/select_merchant_arrears"), {"examples": MOST_LISTED}
            ).fetchall()
        for merchant_id, date_, metric_type, counter, offset, stored, _ in rows:
            key = CounterKey(merchant_id, date_, metric_type)
            missing.append(MissingCounter(key, (offset or 0) + counter, stored))
        missing = missing[:MOST_LISTED]
        missing_count += rows[0][-1] if rows else 0
    return keys, refused, missing_count, tuple(missing)


def _metrics(postgres: psycopg.Connection, day: date) -> tuple[MetricStatus, ...]:
    rows = postgres.execute(load("merchants/sum_merchant_usage"), {"day": day})
    return tuple(MetricStatus(name, merchants, int(total), updated_at) for name, merchants, total, updated_at in rows)


def _last_aggregation(postgres: psycopg.Connection, day: date) -> LastAggregation | None:
    with postgres.cursor(row_factory=class_row(LastAggregation)) as cursor:
        return cursor.execute(load("merchants/select_merchant_sync_batch"), {"day": day}).fetchone()


def _count(postgres: psycopg.Connection, query: str, day: date) -> int:
    with postgres.cursor(row_factory=tuple_row) as cursor:
        [[number]] = cursor.execute(load(query), {"day": day}).fetchall()
    return int(number)
