"""Matters that wait for a person or a drain: dead letters, lost counters, days that nobody aggregated, old keys in Redis."""

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta

import psycopg
import redis
from usage_recorder import keys as recorder_keys

from usage_pipeline import redis_keys as names
from usage_pipeline import values
from usage_pipeline.drain.readings.backlog import Backlog, read_backlog
from usage_pipeline.drain.rounds import TOKEN_FAMILIES
from usage_pipeline.merchants.status import open_regressions
from usage_pipeline.settings import Settings
from usage_pipeline.storage.redis_cluster import AnyRedis, server_or_cluster, translated_cluster_errors
from usage_pipeline.storage.servers.eviction import read_evictions
from usage_pipeline.storage.sql import load
from usage_pipeline.texts import counted

MOST_FAULTS = 1_000
_MOST_COUNTED = 100_000
# The counters in Redis live for so long: what was not aggregated by then is lost.
MERCHANT_DAYS_BACK = 7
_REASON_CHARACTERS = 160
_SAMPLED_KEYS = 100


def dead_letter_faults(connection: psycopg.Connection, families: Sequence[str]) -> list[str]:
    """Open dead letters, newest first."""
    arguments = {"families": list(families), "most": MOST_FAULTS}
    rows = connection.execute(load("checks/select_newest_letters"), arguments).fetchall()
    return [
        f"#{number}, {family} {values.shown(source_key)}, {at:%Y-%m-%d %H:%M}Z: {reason[:_REASON_CHARACTERS]}"
        for number, family, source_key, at, reason in rows
    ]


def dead_letter_counts(connection: psycopg.Connection, families: Sequence[str]) -> dict[str, int]:
    """How many dead letters are open, and how many somebody discarded; of very many only so many of each family."""
    arguments = {"families": list(families), "most": _MOST_COUNTED}
    rows = connection.execute(load("drain/count_dead_letters"), arguments).fetchall()
    return {"open": sum(row[1] for row in rows), "discarded": sum(row[2] for row in rows)}


def eviction_faults(settings: Settings) -> list[str]:
    """That Redis may delete counters when its memory is full, or does not tell whether it would.

    Raises redis.RedisError, RedisUnavailable or OSError when Redis does not answer.
    """
    warning = read_evictions(settings).warning
    return [warning] if warning else []


def regression_faults(connection: psycopg.Connection) -> list[str]:
    """Merchant counters that are lower than their stored values. The stored values stay until somebody decides."""
    return [
        f"{one.date}, {one.merchant_id} {one.metric_type}: {one.stored_value} stored, {one.counter_value} in Redis; "
        "see `usage-pipeline counters --help`"
        for one in open_regressions(connection, at_most=MOST_FAULTS)
    ]


def unaggregated_day_faults(connection: psycopg.Connection, *, today: date, settings: Settings) -> list[str]:
    """Past days whose merchant counters are still in Redis, but were not all read since the day ended."""
    first, last = today - timedelta(days=MERCHANT_DAYS_BACK), today - timedelta(days=1)
    arguments = {"first_day": first, "last_day": last, "timezone": settings.usage_timezone}
    rows = connection.execute(load("checks/select_unaggregated_days"), arguments).fetchall()
    return [f"{day}: not aggregated since it ended. Run `usage-pipeline aggregate --date {day}`" for (day,) in rows]


def backlog_faults(settings: Settings, family: str, *, now: datetime | None = None) -> list[str]:
    """Keys and items that have waited in Redis for more than two intervals of the family's drain.

    Looks at open batches, at the first item of the queue, and at some keys that our recorder noted as written: a key that
    nobody wrote to for two intervals has waited at least as long. Raises redis.RedisError or RedisUnavailable.
    """
    interval_ms = settings.api_token_sync_interval_ms if family in TOKEN_FAMILIES else settings.metrics_sync_interval_ms
    limit = 2 * interval_ms / 1000
    backlog, waits = _backlog(settings, family, now)
    faults = []
    if backlog.oldest_open_seconds > limit:
        faults.append(
            f"{counted(backlog.open_batches, 'batch is', 'batches are')} not finished, the oldest began "
            f"{backlog.oldest_open_seconds:.0f} s ago: its drain died, or PostgreSQL is away"
        )
    return faults + [
        f"{name}: has waited for at least {seconds:.0f} s; a drain is due every {interval_ms / 1000:g} s"
        for name, seconds in waits
        if seconds > limit
    ]


def backlog_age_seconds(settings: Settings, family: str, *, now: datetime | None = None) -> float:
    """How long the oldest of what `backlog_faults` looks at has waited; 0 when nothing waits."""
    backlog, waits = _backlog(settings, family, now)
    return max([backlog.oldest_open_seconds, *(seconds for _, seconds in waits)])


def _backlog(settings: Settings, family: str, now: datetime | None) -> tuple[Backlog, list[tuple[str, float]]]:
    """What waits of a family, and how long some of its keys, or the first item of the queue, have waited."""
    [backlog] = [
        one for one in read_backlog(settings, timeout_seconds=settings.redis_timeout_seconds) if one.family == family
    ]
    with translated_cluster_errors(), server_or_cluster(settings) as server:
        waits = _queue_waits(server, now or datetime.now(UTC)) if family == "event" else _key_waits(server, family)
        return backlog, list(waits)


def _key_waits(server: AnyRedis, family: str) -> Iterator[tuple[str, float]]:
    announced: set[bytes] = set()
    for members in (recorder_keys.touched(family), names.taken(family)):
        announced.update(server.srandmember(members, _SAMPLED_KEYS) or [])  # type: ignore[arg-type]  # bytes client
    for key in sorted(announced):
        try:
            idle = server.object("IDLETIME", key)
        except redis.ResponseError:
            # Redis counts uses in place of idle time (maxmemory-policy lfu).
            return
        if idle is not None:
            yield values.shown(key), float(idle)


def _queue_waits(server: AnyRedis, now: datetime) -> Iterator[tuple[str, float]]:
    try:
        first = server.lindex(recorder_keys.EVENT_QUEUE, 0)
        at = datetime.fromisoformat(json.loads(first)["at"]) if first else None
    except (redis.ResponseError, ValueError, TypeError, KeyError):
        # The drain makes a dead letter of it.
        return
    if at is not None:
        aware = at if at.tzinfo else at.replace(tzinfo=UTC)
        yield "event_queue", (now - aware).total_seconds()
