"""How much waits in Redis, from a few cheap commands. An exact count needs a scan of all keys: see ledger.py."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import redis
from usage_recorder import keys as recorder_keys

from usage_pipeline import redis_keys as names
from usage_pipeline.drain.batch import claimed_ms
from usage_pipeline.drain.rounds import ALL_FAMILIES
from usage_pipeline.settings import Settings
from usage_pipeline.storage.redis_cluster import AnyRedis, primaries, server_or_cluster, translated_cluster_errors


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits of one family: keys that our recorder announced (events: queue items), and batches that are still open."""

    family: str
    waiting: int
    open_batches: int
    oldest_open_seconds: float


def read_backlog(settings: Settings, *, timeout_seconds: float) -> list[Backlog]:
    """Reads Redis, or the whole cluster, once. Each command takes at most `timeout_seconds`.

    Other writers do not announce their keys, so these are not counted. The drain finds them with its own scans.
    Raises redis.RedisError, RedisUnavailable or OSError when Redis does not answer.
    """
    hasty = settings.with_redis_timeout(timeout_seconds)
    with translated_cluster_errors(), server_or_cluster(hasty) as server:
        seconds, microseconds = primaries(server)[0].time()
        now_ms = seconds * 1000 + microseconds // 1000
        return [_reading(server, family, now_ms) for family in ALL_FAMILIES]


def _length(ask: Callable[[Any], Any], name: str | bytes) -> int:
    """What somebody put there that is of another type counts as empty here. The drain tells of it."""
    with suppress(redis.ResponseError):
        return int(ask(name))
    return 0


def _reading(server: AnyRedis, family: str, now_ms: int) -> Backlog:
    if family == "event":
        waiting = _length(server.llen, recorder_keys.EVENT_QUEUE)
    else:
        waiting = sum(_length(server.scard, name) for name in (recorder_keys.touched(family), names.taken(family)))
    batches: list[bytes] = server.hkeys(names.open_batches(family))  # type: ignore[assignment]  # bytes client
    ages = [max(0, now_ms - claimed_ms(batch_id.decode())) for batch_id in batches]
    return Backlog(family, waiting, len(ages), max(ages, default=0) / 1000)
