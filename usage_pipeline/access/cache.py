"""The cache of tokens in Redis: `api_token:{prefix}` (contracts §1.7) for five minutes. It also works without Redis.

Whoever may write to Redis gains nothing by it: a copy is believed only with the signature of this service, in its time, and if
the token was not revoked meanwhile.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Literal

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from starlette.concurrency import run_in_threadpool
from usage_recorder import sentinel

from usage_pipeline.access.lookups import TokenLookups
from usage_pipeline.access.revocations import Connect, Revocations
from usage_pipeline.access.session_key import key_for, session_key
from usage_pipeline.access.signed_copies import MOST_BYTES, signed_copy, token_of
from usage_pipeline.access.tokens import AccessToken, find_token
from usage_pipeline.redis_keys import token_cache
from usage_pipeline.settings import Settings
from usage_pipeline.storage.quick_redis import AWAY, REDIS_ERRORS, TIMEOUT_SECONDS, QuickRedis
from usage_pipeline.storage.redis_cluster import server_or_cluster
from usage_pipeline.storage.sql import load

CACHE_SECONDS = 300

OnLookup = Callable[[Literal["hit", "miss"]], None]


class TokenCache:
    """Finds tokens by their prefix in Redis, else in the database (in a thread), and then puts them into Redis.

    The first look-up asks the database, for the key too. `clock` gives epoch seconds.
    """

    def __init__(
        self,
        settings: Settings,
        cache: QuickRedis,
        writer: redis.Redis,
        connect: Connect,
        lookups: TokenLookups,
        on_lookup: OnLookup,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._cache = cache
        self._on_lookup = on_lookup
        self._writer = writer
        self._connect = connect
        # What else is unknown waits in the same line: see sessions.py.
        self.lookups = lookups
        self._revocations = Revocations(connect)
        self._clock = clock
        self._key: bytes | None = None

    @classmethod
    def of(
        cls,
        settings: Settings,
        cache: QuickRedis,
        connect: Connect,
        on_lookup: OnLookup,
        clock: Callable[[], float] = time.time,
    ) -> "TokenCache":
        """A cache that reads with `cache`, and writes with its own connection, from threads. It sends nothing yet.

        It calls `on_lookup` for each look-up, with whether the cache had the token.
        """
        pool = sentinel.pool(
            settings.redis_dsn.get_secret_value(),
            protocol=2,
            socket_timeout=TIMEOUT_SECONDS,
            socket_connect_timeout=TIMEOUT_SECONDS,
            retry=Retry(NoBackoff(), 0),
        )
        writer = redis.Redis.from_pool(pool)
        # The other connections of the pool are for requests whose token is known.
        lookups = TokenLookups(max(1, settings.db_pool_size // 4))
        return cls(settings, cache, writer, connect, lookups, on_lookup, clock)

    async def find(self, token_prefix: str) -> AccessToken | None:
        """The token of this prefix, valid or not.

        Raises RedisBusy. When Redis does not have it, psycopg.Error when PostgreSQL fails, or TooManyStrangers.
        """
        name = token_cache(token_prefix)
        # A part, since whoever may write to Redis may have left hundreds of megabytes there.
        copy = await self._cache.ask(lambda one: one.getrange(name, 0, MOST_BYTES))
        if isinstance(copy, bytes) and (token := await self._believed(copy, token_prefix)):
            self._on_lookup("hit")
            return token
        self._on_lookup("miss")
        may_keep = copy is not AWAY
        return await self.lookups.find(
            token_prefix, lambda: run_in_threadpool(self._looked_up, token_prefix, may_keep=may_keep)
        )

    async def _believed(self, copy: bytes, token_prefix: str) -> AccessToken | None:
        if self._key is None or not copy:
            return None
        token = token_of(copy, self._key, token_prefix, now=self._clock())
        if token is None or await self._revocations.has(token_prefix):
            return None
        return token

    async def close(self) -> None:
        """Waits for a question to PostgreSQL that is on its way. Its time-outs limit this."""
        await self._revocations.close()
        self._writer.close()

    def _looked_up(self, token_prefix: str, *, may_keep: bool) -> AccessToken | None:
        with self._connect() as connection:
            if self._key is None:
                self._key = key_for("cached copies of tokens", session_key(self._settings, connection))
            with connection.transaction():
                # Whoever revokes waits for this transaction, and deletes from the cache only then: no copy that was read
                # before can come into it afterwards.
                connection.execute(load("access/lock_api_access_token_shared"), {"token_prefix": token_prefix})
                token = find_token(connection, token_prefix)
                if token is not None and may_keep:
                    self._keep(token, self._key)
        return token

    def _keep(self, token: AccessToken, key: bytes) -> None:
        copy = signed_copy(token, key, valid_until=self._clock() + CACHE_SECONDS)
        with suppress(*REDIS_ERRORS):
            self._writer.set(token_cache(token.token_prefix), copy, ex=CACHE_SECONDS)


def forget(settings: Settings, token_prefix: str) -> None:
    """Deletes the cached copy. Raises redis.RedisError, RedisUnavailable or OSError: the copy may live CACHE_SECONDS more."""
    with server_or_cluster(settings) as pooled:
        pooled.delete(token_cache(token_prefix))
