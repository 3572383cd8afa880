"""A Redis client for routes that also work without Redis. It waits briefly, and not at all during an outage.

The log gets one line when an outage begins, and one when it ends.
"""

import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Literal, TypeVar

import redis
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from usage_pipeline.recording.outage import Outage
from usage_pipeline.settings import Settings
from usage_pipeline.storage.postgres import first_line

# What stands in for Redis takes a few milliseconds, but so does a burst of requests that this event loop is busy with: a
# shorter wait would take that for an outage, and let requests pass uncounted.
TIMEOUT_SECONDS = 0.5
# In a burst callers wait for one of these; a question takes a fraction of a millisecond.
MAX_CONNECTIONS = 16
_CONNECTION_SECONDS = 2.0
REDIS_ERRORS = (redis.RedisError, redis.exceptions.RedisClusterException, OSError)
_log = logging.getLogger(__name__)
Answer = TypeVar("Answer")
Away = Literal[False]
AWAY: Away = False
"""What `ask` answers when Redis did not; a missing value is None."""


class QuickRedis:
    """A client for one event loop. It returns AWAY instead of raising an error. It never sends a command twice."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self.client = client
        self._outage = Outage()
        self._is_away = False
        self._was_refused = False

    @classmethod
    def of(cls, settings: Settings) -> "QuickRedis":
        """A client with its own pool, whose callers wait for a connection. It sends nothing yet."""
        pool = redis.asyncio.BlockingConnectionPool.from_url(
            settings.redis_dsn.get_secret_value(),
            max_connections=MAX_CONNECTIONS,
            timeout=_CONNECTION_SECONDS,
            protocol=2,
            socket_timeout=TIMEOUT_SECONDS,
            socket_connect_timeout=TIMEOUT_SECONDS,
            retry=Retry(NoBackoff(), 0),
        )
        return cls(redis.asyncio.Redis.from_pool(pool))

    async def ask(self, question: Callable[[redis.asyncio.Redis], Awaitable[Answer]]) -> Answer | Away:
        """The answer of Redis. AWAY if there is no answer in time or an error (a cluster node may not own the key)."""
        if (began_at := self._outage.begin()) is None:
            return AWAY
        try:
            answer = await question(self.client)
        except redis.ResponseError as error:
            self._outage.answered()
            if not self._was_refused:
                self._was_refused = True
                _log.warning("Redis refuses a command; the service goes on without Redis: %s", first_line(error))
            return AWAY
        except REDIS_ERRORS as error:
            self._outage.failed(began_at)
            if not self._is_away:
                self._is_away = True
                _log.warning("Redis does not answer; the service goes on without Redis: %s", first_line(error))
            return AWAY
        self._outage.answered()
        if self._is_away:
            self._is_away = False
            _log.info("Redis answers again")
        return answer

    async def close(self) -> None:
        """Closes the connections. Raises nothing."""
        with suppress(*REDIS_ERRORS):
            await self.client.aclose()
