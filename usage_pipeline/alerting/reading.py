"""Reads the facts of PostgreSQL and Redis for an evaluation. This takes milliseconds, however much they hold."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import psycopg
import redis
from psycopg.rows import class_row

from usage_pipeline.alerting.facts import (
    Aggregation,
    BrokenFile,
    EndingToken,
    ExpiringTokenKeys,
    FallenOdometers,
    MissingUsage,
    OpenDeadLetters,
    OpenRegressions,
    UncertainBatches,
    UnreadableOdometers,
)
from usage_pipeline.alerting.memory import Sample, Waiting
from usage_pipeline.drain.readings.backlog import read_backlog
from usage_pipeline.drain.rounds import ALL_FAMILIES, TOKEN_FAMILIES
from usage_pipeline.reconciliation.odometers import DAYS_BACK, note_odometers
from usage_pipeline.rollups.calendar import day_window
from usage_pipeline.rollups.daily import current_day
from usage_pipeline.settings import Settings
from usage_pipeline.storage.redis_cluster import primaries, server_or_cluster, translated_cluster_errors
from usage_pipeline.storage.servers.eviction import Eviction, read_evictions
from usage_pipeline.storage.servers.redis_facts import read_info
from usage_pipeline.storage.sql import load

# More open ones are not counted.
MOST_COUNTED = 100_000
_REDIS_SECONDS = 2.0
# A note of expiring keys counts for so long: two rounds of scans, which may be five minutes apart.
_NOTE_SECONDS = 600
_REASON_LENGTH = 300


@dataclass(frozen=True, slots=True)
class RedisReading:
    """One look at Redis: what waits there, and how large it is. `most_memory_bytes` is maxmemory; 0: no limit."""

    waiting: tuple[Waiting, ...]
    sample: Sample
    most_memory_bytes: int


def read_redis(settings: Settings, postgres: psycopg.Connection, now: datetime) -> RedisReading:
    """Raises redis.RedisError, RedisUnavailable or OSError when Redis does not answer within seconds."""
    stored: dict[str, datetime | None] = dict(
        postgres.execute(load("alerting/select_last_batches"), {"families": list(ALL_FAMILIES)}).fetchall()
    )
    waiting = tuple(
        Waiting(
            found.family,
            found.waiting,
            found.open_batches,
            found.oldest_open_seconds,
            stored_at.timestamp() if (stored_at := stored.get(found.family)) else None,
            interval_seconds(settings, found.family),
        )
        for found in read_backlog(settings, timeout_seconds=_REDIS_SECONDS)
    )
    memory, most, keys = _size(settings)
    return RedisReading(waiting, Sample(now.timestamp(), memory, keys), most)


def interval_seconds(settings: Settings, family: str) -> float:
    """How often that family is drained."""
    in_ms = settings.api_token_sync_interval_ms if family in TOKEN_FAMILIES else settings.metrics_sync_interval_ms
    return in_ms / 1000


def read_eviction(settings: Settings) -> Eviction | None:
    """Whether Redis deletes keys when it is full; None when it does not tell. Raises as `read_redis`."""
    found = read_evictions(settings.with_redis_timeout(_REDIS_SECONDS))
    return None if found.policy is None else found


def read_dead_letters(postgres: psycopg.Connection) -> tuple[OpenDeadLetters, ...]:
    with postgres.cursor(row_factory=class_row(OpenDeadLetters)) as cursor:
        limits = {"most": MOST_COUNTED, "length": _REASON_LENGTH}
        return tuple(cursor.execute(load("alerting/select_dead_letters"), limits).fetchall())


def read_regressions(postgres: psycopg.Connection) -> tuple[OpenRegressions, ...]:
    with postgres.cursor(row_factory=class_row(OpenRegressions)) as cursor:
        return tuple(cursor.execute(load("alerting/select_regressions"), {"most": MOST_COUNTED}).fetchall())


def read_missing_usage(postgres: psycopg.Connection) -> tuple[MissingUsage, ...]:
    with postgres.cursor(row_factory=class_row(MissingUsage)) as cursor:
        return tuple(cursor.execute(load("alerting/select_missing_usage")).fetchall())


def see_odometers(settings: Settings) -> None:
    """Notes what the odometers in Redis count now.

    Raises redis.RedisError, RedisUnavailable or OSError when Redis does not answer within seconds.
    """
    note_odometers(settings.with_redis_timeout(_REDIS_SECONDS))


def read_fallen_odometers(postgres: psycopg.Connection, now: datetime) -> tuple[FallenOdometers, ...]:
    with postgres.cursor(row_factory=class_row(FallenOdometers)) as cursor:
        arguments = {"since": now - timedelta(days=1)}
        return tuple(cursor.execute(load("alerting/select_fallen_odometers"), arguments).fetchall())


def read_unreadable_odometers(postgres: psycopg.Connection, now: datetime) -> tuple[UnreadableOdometers, ...]:
    with postgres.cursor(row_factory=class_row(UnreadableOdometers)) as cursor:
        # Older ones are not looked at any more.
        arguments = {"first_day": (now - timedelta(days=DAYS_BACK)).date()}
        return tuple(cursor.execute(load("alerting/select_unreadable_odometers"), arguments).fetchall())


def read_uncertain(postgres: psycopg.Connection, now: datetime) -> tuple[UncertainBatches, ...]:
    with postgres.cursor(row_factory=class_row(UncertainBatches)) as cursor:
        arguments = {"since": now - timedelta(days=1)}
        return tuple(cursor.execute(load("alerting/select_uncertain_batches"), arguments).fetchall())


def read_expiring_tokens(postgres: psycopg.Connection) -> tuple[ExpiringTokenKeys, ...]:
    with postgres.cursor(row_factory=class_row(ExpiringTokenKeys)) as cursor:
        arguments = {"seconds": _NOTE_SECONDS}
        return tuple(cursor.execute(load("alerting/select_expiring_tokens"), arguments).fetchall())


def read_ending_tokens(postgres: psycopg.Connection, now: datetime) -> tuple[EndingToken, ...]:
    with postgres.cursor(row_factory=class_row(EndingToken)) as cursor:
        return tuple(cursor.execute(load("alerting/select_ending_tokens"), {"now": now}).fetchall())


def read_broken_files(postgres: psycopg.Connection, now: datetime) -> tuple[BrokenFile, ...]:
    with postgres.cursor(row_factory=class_row(BrokenFile)) as cursor:
        arguments = {"since": now - timedelta(days=7)}
        return tuple(cursor.execute(load("alerting/select_broken_files"), arguments).fetchall())


def read_aggregations(
    postgres: psycopg.Connection, settings: Settings, now: datetime
) -> tuple[Aggregation, ...] | None:
    """The last aggregations of yesterday and today; None when there was none in the last two intervals."""
    today = current_day(settings.timezone)
    oldest = now - timedelta(milliseconds=2 * settings.usage_aggregation_interval)
    hours = (now - day_window(today, settings.timezone).first).total_seconds() / 3600
    found = []
    for day in (today - timedelta(days=1), today):
        row = postgres.execute(load("merchants/select_merchant_sync_batch"), {"day": day}).fetchone()
        if row is not None and row[1] >= oldest:
            found.append(Aggregation(day, row[1], row[2], day == today, hours))
    return tuple(found) or None


def _size(settings: Settings) -> tuple[int, int, int]:
    """Used memory, maxmemory and keys, summed over the primaries of a cluster."""
    hasty = settings.with_redis_timeout(_REDIS_SECONDS)
    with translated_cluster_errors(), server_or_cluster(hasty) as pooled:
        return _sum_of(primaries(pooled))


def _sum_of(servers: Sequence[redis.Redis]) -> tuple[int, int, int]:
    # 0 where INFO is refused: then only the number of keys is watched.
    memory = [read_info(server, "memory") for server in servers]
    return (
        sum(int(one.get("used_memory", 0)) for one in memory),
        sum(int(one.get("maxmemory", 0)) for one in memory),
        sum(int(server.dbsize()) for server in servers),
    )
