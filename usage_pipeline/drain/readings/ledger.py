"""Reads the ledger of batches, and counts keys in Redis, for people and for Dagster's metadata. It changes nothing."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime
from itertools import chain

import psycopg
import redis
from psycopg.rows import class_row
from usage_recorder import keys as recorder_keys

from usage_pipeline import redis_keys as names
from usage_pipeline.drain.batch import claimed_ms
from usage_pipeline.drain.families import FAMILIES
from usage_pipeline.settings import Settings
from usage_pipeline.storage.redis import PinnedConnection
from usage_pipeline.storage.redis_cluster import AnyRedis, primaries, server_or_cluster, translated_cluster_errors
from usage_pipeline.storage.servers.redis_facts import read_info
from usage_pipeline.storage.sql import load

_SCAN_COUNT = 10_000


@dataclass(frozen=True, slots=True)
class FamilySummary:
    """What was drained of one family in a range of time."""

    family: str
    batches: int
    keys: int
    stored_rows: int
    dead_letters: int
    duplicates: int
    uncertain_batches: int
    longest_lag_seconds: float
    usage_dates: list[date]


@dataclass(frozen=True, slots=True)
class SourceReading:
    """What waits in Redis of one family: live keys (events: items), claimed keys, and the age of the oldest open batch."""

    family: str
    live_keys: int
    claimed_keys: int
    open_batches: int
    oldest_open_seconds: float
    redis_memory_bytes: int


def summarize(connection: psycopg.Connection, since: datetime, until: datetime) -> list[FamilySummary]:
    """Sums up, per family, the batches that were applied after `since` and not after `until`."""
    drained = [*(family.name for family in FAMILIES), "event"]
    bounds = {"families": drained, "since": since, "until": until}
    with connection.cursor(row_factory=class_row(FamilySummary)) as cursor:
        return cursor.execute(load("drain/summarize_batches"), bounds).fetchall()


def read_sources(settings: Settings) -> list[SourceReading]:
    """Counts what waits in Redis, or in the whole cluster. Scans all keys once, about a second per million keys.

    Raises redis.RedisError or RedisUnavailable when Redis does not answer.
    """
    with translated_cluster_errors(), server_or_cluster(settings) as pooled:
        servers = primaries(pooled)
        live = dict.fromkeys([*(family.name for family in FAMILIES), "event", "merchant"], 0)
        claimed = dict(live)
        for key in chain.from_iterable(map(_all_names, servers)):
            is_claim = key.startswith(names.CLAIMS)
            try:
                name = names.parse_claim(key)[1] if is_claim else key
            except ValueError:
                continue
            if family := _family_of(name):
                (claimed if is_claim else live)[family] += 1
        live["event"] = int(pooled.llen("event_queue")) if pooled.type("event_queue") == b"list" else live["event"]
        memory = sum(int(read_info(server, "memory").get("used_memory", 0)) for server in servers)
        seconds, microseconds = servers[0].time()
        now_ms = seconds * 1000 + microseconds // 1000
        return [_reading(pooled, family, live[family], claimed[family], memory, now_ms) for family in live]


def _all_names(server: redis.Redis) -> Iterator[bytes]:
    with PinnedConnection(server) as connection:
        for page in connection.scan(b"*", _SCAN_COUNT):
            yield from page


def _family_of(key: bytes) -> str | None:
    if key == recorder_keys.EVENT_QUEUE:
        return "event"
    if key.startswith(b"usage:"):
        return "merchant"
    return next((family.name for family in FAMILIES if family.owns(key)), None)


def _reading(pooled: AnyRedis, family: str, live: int, claimed: int, memory: int, now_ms: int) -> SourceReading:
    open_batches: list[bytes] = pooled.hkeys(names.open_batches(family))  # type: ignore[assignment]  # bytes client
    ages = [now_ms - claimed_ms(batch_id.decode()) for batch_id in open_batches]
    return SourceReading(family, live, claimed, len(ages), max(ages, default=0) / 1000, memory)
