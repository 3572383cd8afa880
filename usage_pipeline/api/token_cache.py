"""The cache before the token table: `api_token:{prefix}` (contracts §1.7) for five minutes; works without Redis, too."""

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from typing import TypeVar

import msgspec
import psycopg
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from usage_pipeline.api.tokens import AccessToken, find_token
from usage_pipeline.counters.keys import token_cache
from usage_pipeline.counters.record_outage import Outage
from usage_pipeline.settings import Settings
from usage_pipeline.storage.redis import client, is_cluster_node
from usage_pipeline.storage.redis_cluster import cluster_client
from usage_pipeline.storage.sql import load

CACHE_SECONDS = 300
# A look-up in the database takes a millisecond; waiting longer than this for Redis helps nobody.
CACHE_TIMEOUT_SECONDS = 0.25
_REDIS_ERRORS = (redis.RedisError, redis.exceptions.RedisClusterException, OSError)
_log = logging.getLogger(__name__)

Connect = Callable[[], AbstractContextManager[psycopg.Connection]]
Answer = TypeVar("Answer")


class TokenCache:
    """Finds tokens by their prefix, from threads: in Redis, or else in the database, and then puts them into Redis."""

    def __init__(self, cache: redis.Redis, connect: Connect) -> None:
        self._cache = cache
        self._connect = connect
        self._outage = Outage()

    @classmethod
    def of(cls, settings: Settings, connect: Connect) -> "TokenCache":
        """With connections to Redis of its own; nothing is sent yet."""
        cache = redis.Redis.from_url(
            settings.redis_dsn.get_secret_value(),
            protocol=2,
            socket_timeout=CACHE_TIMEOUT_SECONDS,
            socket_connect_timeout=CACHE_TIMEOUT_SECONDS,
            retry=Retry(NoBackoff(), 0),
        )
        return cls(cache, connect)

    def find(self, token_prefix: str) -> AccessToken | None:
        """The token of this prefix, valid or not. Raises psycopg.Error when Redis does not have it and PostgreSQL fails."""
        if token := self._cached(token_prefix):
            return token
        with self._connect() as connection, connection.transaction():
            # Whoever revokes waits for this transaction, and deletes from the cache only then: no copy that was read before
            # can come into it afterwards.
            connection.execute(load("api/lock_api_access_token_shared"), {"token_prefix": token_prefix})
            token = find_token(connection, token_prefix)
            if token is not None:
                self._keep(token)
        return token

    def close(self) -> None:
        self._cache.close()

    def _cached(self, token_prefix: str) -> AccessToken | None:
        def read() -> bytes | None:
            return self._cache.get(token_cache(token_prefix))  # type: ignore[return-value]  # sync: no awaitable

        cached = self._asked(read)
        try:
            return msgspec.json.decode(cached, type=AccessToken) if cached else None
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None  # a foreign writer's: the database knows

    def _keep(self, token: AccessToken) -> None:
        self._asked(
            lambda: self._cache.set(token_cache(token.token_prefix), msgspec.json.encode(token), ex=CACHE_SECONDS)
        )

    def _asked(self, ask: Callable[[], Answer]) -> Answer | None:
        if (began_at := self._outage.begin()) is None:
            return None
        try:
            answer = ask()
        except redis.ResponseError:
            self._outage.answered()  # for example a node of a cluster that does not own the key's slot
            return None
        except _REDIS_ERRORS as error:
            self._outage.failed(began_at)
            _log.warning("token cache: Redis does not answer, the database is asked: %s", error)
            return None
        self._outage.answered()
        return answer


def forget(settings: Settings, token_prefix: str) -> None:
    """Deletes the cached copy. Raises redis.RedisError, RedisUnavailable or OSError; then it may live on for CACHE_SECONDS."""
    with closing(client(settings)) as one:
        if not is_cluster_node(one):
            one.delete(token_cache(token_prefix))
            return
    with closing(cluster_client(settings)) as cluster:
        cluster.delete(token_cache(token_prefix))
