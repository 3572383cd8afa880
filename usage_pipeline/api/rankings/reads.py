"""Rankings for readers: from Redis (contracts §1.8), else from PostgreSQL, with one query for all who ask at the same time.

Single flight: the requests of a process wait for the one that reads. Of several processes, one holds a lock in Redis for the
time of a query; the others look into the cache again and again, but no longer than that.
"""

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import msgspec
import redis.asyncio

from usage_pipeline.api.metrics.counts import Metrics
from usage_pipeline.api.storing import Storing
from usage_pipeline.redis_keys import ranking_filler
from usage_pipeline.rollups.ranking_cache import CACHE_SECONDS, cached_text
from usage_pipeline.rollups.rankings import RANKING_SIZE, Ranking, read_ranking
from usage_pipeline.storage.quick_redis import AWAY, Away, QuickRedis, RedisBusy

# Longer than the query takes; whoever waited so long reads for itself.
LOCK_SECONDS = 2.0
LOOK_SECONDS = 0.02
# Only by who holds it: another's may have begun when ours ran out.
_UNLOCK = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"
_log = logging.getLogger(__name__)


class _Entry(msgspec.Struct):
    """What every entry of a ranking has. The parts of the score are skipped."""

    rank: int
    id: str
    title: str
    score: int
    ranking_date: str = msgspec.field(name="rankingDate")


_decode = msgspec.json.Decoder(list[_Entry]).decode
Read = Callable[[Ranking], list[dict[str, object]]]
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Answer:
    """The JSON array, and whether it was in the cache."""

    text: bytes
    is_hit: bool


class RankingReads:
    """Reads rankings on one event loop; `read` is the query, which blocks."""

    def __init__(self, cache: QuickRedis, storing: Storing, metrics: Metrics, read: Read | None = None) -> None:
        self._cache = cache
        self._storing = storing
        self._metrics = metrics
        self._read = read or self._newest
        self._flights: dict[str, asyncio.Task[bytes]] = {}

    async def get(self, ranking: Ranking) -> Answer:
        """The ranking as it was last made. Raises Problem (503) when neither Redis nor PostgreSQL answers."""
        cached: Any = await self._ask(lambda client: client.get(ranking.cache_key))
        if is_ranking(cached):
            self._metrics.cache_lookup("ranking", "hit")
            return Answer(cached, is_hit=True)
        self._metrics.cache_lookup("ranking", "miss")
        flight = self._flights.get(ranking.name)
        if flight is None:
            # What is there and malformed is replaced; what comes meanwhile is newer than what is read now.
            filling = self._filled(ranking, has_redis=cached is not AWAY, replaces=cached is not None)
            flight = asyncio.ensure_future(filling)
            self._flights[ranking.name] = flight
            flight.add_done_callback(partial(self._landed, ranking.name))
        # Another's request may end while this one waits.
        return Answer(await asyncio.shield(flight), is_hit=False)

    async def close(self) -> None:
        """Waits for queries that still run, although their callers are gone."""
        if self._flights:
            await asyncio.wait(self._flights.values())

    async def _filled(self, ranking: Ranking, *, has_redis: bool, replaces: bool) -> bytes:
        if not has_redis:
            return await self._from_database(ranking)
        lock, holder = ranking_filler(ranking.cache_key), secrets.token_hex(8)
        milliseconds = round(LOCK_SECONDS * 1000)
        is_ours = await self._ask(lambda client: client.set(lock, holder, nx=True, px=milliseconds))
        if is_ours is None and (filled := await self._awaited(ranking)) is not None:
            return filled
        try:
            text = await self._from_database(ranking)
            await self._ask(lambda client: client.set(ranking.cache_key, text, ex=CACHE_SECONDS, nx=not replaces))
            return text
        finally:
            if is_ours:
                await self._ask(lambda client: client.eval(_UNLOCK, 1, lock, holder))

    async def _awaited(self, ranking: Ranking) -> bytes | None:
        """The ranking that another process puts into the cache, or None if it does not come in time."""
        lock = ranking_filler(ranking.cache_key)
        for _ in range(round(LOCK_SECONDS / LOOK_SECONDS)):
            await asyncio.sleep(LOOK_SECONDS)
            found: Any = await self._ask(lambda client: client.mget(ranking.cache_key, lock))
            if found is AWAY:
                return None
            cached, holder = found
            if is_ranking(cached):
                return bytes(cached)
            if holder is None:
                return None  # it failed
        return None

    async def _from_database(self, ranking: Ranking) -> bytes:
        return cached_text(await self._storing.in_thread(partial(self._read, ranking)))

    async def _ask(self, question: Callable[[redis.asyncio.Redis], Awaitable[Value]]) -> Value | Away:
        """As QuickRedis.ask. A Redis that this process has no connection for is away here: one query serves all who ask."""
        try:
            return await self._cache.ask(question)
        except RedisBusy:
            return AWAY

    def _newest(self, ranking: Ranking) -> list[dict[str, object]]:
        with self._storing.pool.connection() as connection:
            return read_ranking(connection, ranking)

    def _landed(self, name: str, flight: "asyncio.Task[bytes]") -> None:
        del self._flights[name]
        if not flight.cancelled() and (error := flight.exception()):
            _log.debug("ranking %s: %s", name, error)  # and everyone who waited has it


def is_ranking(cached: object) -> bool:
    """Whether this is a cached ranking, and not a value of another program."""
    if not isinstance(cached, bytes):
        return False
    try:
        return len(_decode(cached)) <= RANKING_SIZE
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
