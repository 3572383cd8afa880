"""A Redis client for routes that also work without Redis. It waits briefly, and not at all during an outage.

The log gets one line when an outage begins, and one when it ends. A process that has too much to do is no outage: whoever took
it for one would let requests pass uncounted, and a flood of requests would switch off all quotas.
"""

import asyncio
import errno
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Literal, TypeVar

import redis
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from usage_recorder import sentinel
from usage_recorder.outage import Outage

from usage_pipeline.settings import Settings
from usage_pipeline.storage.postgres import first_line

# What stands in for Redis takes a few milliseconds.
TIMEOUT_SECONDS = 0.5
# In a burst callers wait for one of these; a question takes a fraction of a millisecond.
MAX_CONNECTIONS = 16
_CONNECTION_SECONDS = 2.0
# An answer that has come is seen at a later turn of the event loop. So a time-out has so many turns: a loop that stands still
# for a second spends one of them, and not the whole time-out.
_TURNS = 20
_NO_DESCRIPTORS = (errno.EMFILE, errno.ENFILE)
REDIS_ERRORS = (redis.RedisError, redis.exceptions.RedisClusterException, OSError)
_log = logging.getLogger(__name__)
Answer = TypeVar("Answer")
Away = Literal[False]
AWAY: Away = False
"""What `ask` answers when Redis did not; a missing value is None."""


class RedisBusy(Exception):
    """This process has no connection to Redis free, and nothing is known of Redis. The message is one line."""


class _PatientRedis(redis.asyncio.Redis):
    """Waits for one of MAX_CONNECTIONS, and then for the answer. Raises RedisBusy, TimeoutError and redis.RedisError."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._free = asyncio.Semaphore(MAX_CONNECTIONS)

    async def execute_command(self, *words: Any, **options: Any) -> Any:
        try:
            async with asyncio.timeout(_CONNECTION_SECONDS):
                await self._free.acquire()
        except TimeoutError:
            raise RedisBusy("too many requests wait for Redis") from None
        try:
            return await _in_time(super().execute_command(*words, **options))  # type: ignore[no-untyped-call]
        finally:
            self._free.release()


async def _in_time(question: Awaitable[Answer]) -> Answer:
    asked = asyncio.ensure_future(question)
    try:
        for _ in range(_TURNS):
            if (await asyncio.wait({asked}, timeout=TIMEOUT_SECONDS / _TURNS))[0]:
                return asked.result()
        raise TimeoutError(f"no answer within {TIMEOUT_SECONDS:g} s")
    finally:
        if not asked.done():
            asked.cancel()
            # Until its connection is closed and back in the pool.
            await asyncio.wait({asked}, timeout=TIMEOUT_SECONDS)


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
        pool = sentinel.async_pool(
            settings.redis_dsn.get_secret_value(),
            is_blocking=True,
            max_connections=MAX_CONNECTIONS,
            protocol=2,
            # _in_time limits a whole command; redis-py's own clock does not know how busy the event loop is.
            socket_timeout=None,
            socket_connect_timeout=None,
            retry=Retry(NoBackoff(), 0),
        )
        return cls(_PatientRedis.from_pool(pool))

    async def ask(self, question: Callable[[redis.asyncio.Redis], Awaitable[Answer]]) -> Answer | Away:
        """The answer of Redis. AWAY if there is no answer in time or an error (a cluster node may not own the key).

        Raises RedisBusy, which says nothing of Redis: the caller waits or refuses, and does not go on without it.
        """
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
            if _is_without_descriptors(error):
                raise RedisBusy("this process has no file descriptor left for Redis") from None
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


def _is_without_descriptors(error: BaseException | None) -> bool:
    """Whether the process may open no further connection. redis-py wraps the error of the system."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _NO_DESCRIPTORS:
            return True
        error = error.__cause__ or error.__context__
    return False
