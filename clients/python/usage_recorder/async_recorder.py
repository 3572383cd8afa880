"""The recorder for asyncio (contracts §1.6): the calls of recorder.py, to be awaited."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Optional

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from usage_recorder import cluster as record_cluster
from usage_recorder import commands as record_commands
from usage_recorder.calls import Build, Options, Recording
from usage_recorder.commands import Command, Family
from usage_recorder.quota import QuotaDecision
from usage_recorder.recorder import EXPECTED_A_URL, REDIS_ERRORS, TIMEOUT_SECONDS, bounded

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack


class AsyncRecorder(Recording[Awaitable[bool], Awaitable[Optional[str]]]):
    """The recorder for asyncio, on one event loop. Await every call. See Recorder for clients, retries and clusters."""

    def __init__(self, client: redis.asyncio.Redis | redis.asyncio.RedisCluster, **options: Unpack[Options]) -> None:
        super().__init__(**options)
        self._client = client

    @classmethod
    def connect(cls, url: str, *, timeout_seconds: float = TIMEOUT_SECONDS, **options: Unpack[Options]) -> Self:
        """As `Recorder.connect`."""
        retry = Retry(NoBackoff(), 0)
        pool = None
        with suppress(ValueError):
            pool = redis.asyncio.BlockingConnectionPool.from_url(url, **bounded(timeout_seconds), retry=retry)
        if pool is None:
            raise ValueError(EXPECTED_A_URL)
        return cls(redis.asyncio.Redis.from_pool(pool), **options)

    async def check_quota(self, api_key_id: str) -> QuotaDecision:
        """As `Recorder.check_quota`."""
        commands = self._built("quota", lambda: record_commands.quota_question(self._moment(), api_key_id))
        return self._decision(commands and await self._send("quota", commands, is_atomic=False))

    async def pending(self, api_key_id: str) -> dict[str, int] | None:
        """As `Recorder.pending`."""
        commands = self._built("pending", lambda: record_commands.pending_question(api_key_id))
        return self._pending_counts(commands and await self._send("pending", commands, is_atomic=False))

    async def close(self) -> None:
        """Closes the pool's connections. Raises nothing."""
        with suppress(*REDIS_ERRORS):
            await self._client.aclose()

    async def _record(self, family: Family, at_ms: int | None, build: Build) -> bool:
        record = self._built(family, lambda: build(self._moment(at_ms)))
        if record is None or (answers := await self._send(family, record.commands())) is None:
            return False
        correction = self._settle(record, answers)
        if bookkeeping := correction or record.names_life(answers):
            await self._send(family, bookkeeping, is_bookkeeping=True)
        return correction is None

    async def _event_outcome(self, event_id: str, recorded: Awaitable[bool]) -> str | None:
        return event_id if await recorded else None

    async def _send(
        self, what: str, commands: Iterable[Command], *, is_atomic: bool = True, is_bookkeeping: bool = False
    ) -> list[Any] | None:
        if (began_at := self._begin(what, is_bookkeeping)) is None:
            return None
        try:
            if isinstance(self._client, redis.asyncio.RedisCluster):
                answers = await record_cluster.send_async(self._client, commands)
            else:
                pipeline = self._client.pipeline(transaction=is_atomic)
                for command in commands:
                    pipeline.execute_command(*command)
                answers = await pipeline.execute(raise_on_error=False)
        except REDIS_ERRORS as error:
            self._no_answers(what, error, began_at, is_bookkeeping)
            return None
        self._outage.answered()
        return answers
