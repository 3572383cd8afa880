"""Rankings in Redis (contracts §1.8): `popular:<ranking>`, a JSON array that lives five minutes. Readers look here first."""

from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime

import msgspec
import psycopg
import redis

from usage_pipeline.rollups.rankings import RANKINGS, Ranking, lock_ranking, read_ranking, replace_rankings
from usage_pipeline.settings import Settings
from usage_pipeline.storage.postgres import first_line, is_connection_lost
from usage_pipeline.storage.redis import RedisUnavailable
from usage_pipeline.storage.redis_cluster import AnyRedis, server_or_cluster

CACHE_SECONDS = 300
# A ranking is one small value. If Redis takes longer than this, a run should not wait for it.
_TIMEOUT_SECONDS = 2.0
_REDIS_ERRORS = (redis.RedisError, redis.exceptions.RedisClusterException, RedisUnavailable, OSError)


def cached_text(entries: Sequence[dict[str, object]]) -> bytes:
    """The entries of `read_ranking` as the JSON array that is cached and served."""
    return msgspec.json.encode(entries)


def publish_ranking(cache: AnyRedis, ranking: Ranking, entries: Sequence[dict[str, object]]) -> None:
    """Writes the entries to the cache. Raises redis.RedisError."""
    cache.set(ranking.cache_key, cached_text(entries), ex=CACHE_SECONDS)


def publish_current(
    connection: psycopg.Connection,
    ranking: Ranking,
    replaced: Iterable[date],
    *,
    settings: Settings,
    now: datetime | None = None,
) -> str | None:
    """Publishes the ranking of today in USAGE_TIMEZONE, empty or not, after rankings of the dates `replaced` were replaced.

    If today is not among them, it publishes nothing: what is popular now does not change with an old date. Returns None, or why
    it could not be published. Readers find it in the database all the same.
    """
    today = (now or datetime.now(UTC)).astimezone(settings.timezone).date()
    if today not in replaced:
        return None
    with connection.transaction():
        # While we hold this lock, nobody replaces the ranking. So an older state is never published after a newer one.
        lock_ranking(connection, ranking)
        entries = read_ranking(connection, ranking, today)
        try:
            _publish(ranking, entries, settings)
        except _REDIS_ERRORS as error:
            return first_line(error)
    return None


def refresh_current(
    connection: psycopg.Connection, *, settings: Settings, now: datetime | None = None
) -> dict[str, str]:
    """Ranks today so far, in every ranking, and publishes each. Returns what Redis did not take, by ranking, with the reason.

    A ranking that fails keeps no other from being made; then the error of the first one is raised.
    """
    today = (now or datetime.now(UTC)).astimezone(settings.timezone).date()
    refused: dict[str, str] = {}
    failed: list[psycopg.Error] = []
    for ranking in RANKINGS:
        try:
            replace_rankings(connection, ranking, [today], settings=settings)
            if problem := publish_current(connection, ranking, [today], settings=settings, now=now):
                refused[ranking.cache_key] = problem
        except psycopg.Error as error:
            if is_connection_lost(error):
                raise
            failed.append(error)
    if failed:
        raise failed[0]
    return refused


def _publish(ranking: Ranking, entries: Sequence[dict[str, object]], settings: Settings) -> None:
    quick = settings.model_copy(
        update={
            "redis_timeout_seconds": min(_TIMEOUT_SECONDS, settings.redis_timeout_seconds),
            "connect_timeout_seconds": min(_TIMEOUT_SECONDS, settings.connect_timeout_seconds),
        }
    )
    with server_or_cluster(quick) as pooled:
        publish_ranking(pooled, ranking, entries)
