"""Redis for routes that can do without it: short waits, none during an outage, and one line in the log for each outage."""

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
    """A client for one event loop. It answers AWAY where others raise; a command is never sent twice."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self.client = client
        self._outage = Outage()
        self._is_away = False
        self._was_refused = False

    @classmethod
    def of(cls, settings: Settings) -> "QuickRedis":
        """With a pool of its own, whose callers wait for a connection; nothing is sent yet."""
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
        """Redis's answer, or AWAY when there is none in time, or an error (a node of a cluster may not own the key)."""
        if (began_at := self._outage.begin()) is None:
            return AWAY
        try:
            answer = await question(self.client)
        except redis.ResponseError as error:
            self._outage.answered()
            if not self._was_refused:
                self._was_refused = True
                _log.warning("Redis refuses a command; it is done without: %s", first_line(error))
            return AWAY
        except REDIS_ERRORS as error:
            self._outage.failed(began_at)
            if not self._is_away:
                self._is_away = True
                _log.warning("Redis does not answer; it is done without: %s", first_line(error))
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
