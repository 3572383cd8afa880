"""The recorder for asyncio (contracts §1.6): the calls of recorder.py, to be awaited."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Optional

import redis
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from usage_recorder import commands as record_commands
from usage_recorder import sentinel
from usage_recorder.budget import BudgetAnswer
from usage_recorder.calls import Build, Options, Recording
from usage_recorder.commands import Command, Family
from usage_recorder.delivery.async_courier import AsyncCourier
from usage_recorder.delivery.sends import Send
from usage_recorder.delivery.wire import REDIS_ERRORS, exchange_async
from usage_recorder.quota import QuotaDecision
from usage_recorder.recorder import EXPECTED_A_URL, FLUSH_SECONDS, TIMEOUT_SECONDS, bounded, sync_client
from usage_recorder.slot_owners import KeyCommand, send_to_owners_async

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack


class AsyncRecorder(Recording[Awaitable[bool], Awaitable[Optional[str]]]):
    """The recorder for asyncio, on one event loop. Await every call. See Recorder for clients, spool files and forks.

    A call that is cancelled is sent again by a task in the background: it counts once. Await `close` before the loop ends. What
    is left then is sent at the exit of the process, if the recorder was made with `connect`.
    """

    def __init__(self, client: redis.asyncio.Redis | redis.asyncio.RedisCluster, **options: Unpack[Options]) -> None:
        super().__init__(isinstance(client, redis.asyncio.RedisCluster), **options)
        self._client = client
        self._courier = self._new_courier(None)

    @classmethod
    def connect(cls, url: str, *, timeout_seconds: float = TIMEOUT_SECONDS, **options: Unpack[Options]) -> Self:
        """As `Recorder.connect`; what a `spool` file has from before is sent from the first call on."""
        retry = Retry(NoBackoff(), 0)
        pool = None
        with suppress(ValueError):
            pool = sentinel.async_pool(url, is_blocking=True, **bounded(timeout_seconds), retry=retry)
        if pool is None:
            raise ValueError(EXPECTED_A_URL)
        recorder = cls(redis.asyncio.Redis.from_pool(pool), **options)
        recorder._courier = recorder._new_courier(lambda: sync_client(url, timeout_seconds))
        return recorder

    async def check_quota(self, api_key_id: str) -> QuotaDecision:
        """As `Recorder.check_quota`."""
        commands = self._built("quota", lambda: record_commands.quota_question(self._moment(), api_key_id))
        return self._decision(commands and await self._read("quota", commands))

    async def check_budget(self, scope: str) -> BudgetAnswer:
        """As `Recorder.check_budget`."""
        commands = self._built("budget", lambda: record_commands.budget_question(scope))
        return self._budget_answer(commands and await self._read("budget", commands))

    async def pending(self, api_key_id: str) -> dict[str, int] | None:
        """As `Recorder.pending`."""
        commands = self._built("pending", lambda: record_commands.pending_question(api_key_id))
        return self._pending_counts(commands and await self._read("pending", commands))

    async def flush(self, timeout_seconds: float = FLUSH_SECONDS) -> bool:
        """As `Recorder.flush`."""
        return await self._courier.flush(timeout_seconds)

    async def close(self, timeout_seconds: float = FLUSH_SECONDS) -> None:
        """As `Recorder.close`."""
        await self._courier.flush(timeout_seconds)
        await self._courier.stop()
        self._outbox.close()
        with suppress(*REDIS_ERRORS):
            await self._client.aclose()

    async def _record(self, family: Family, at_ms: int | None, build: Build) -> bool:
        record = self._built(family, lambda: build(self._moment(at_ms)))
        if record is None:
            return False
        send = self._outbox.begin(record)
        if isinstance(send, Send):
            try:
                [answers] = await exchange_async(self._client, [send])
            except Exception as error:
                # Nothing that redis-py documents. The courier tries again, and logs it.
                is_recorded = self._outbox.doubt(send, error)
            except BaseException as interruption:
                # Such as CancelledError. It may be written.
                self._outbox.doubt(send, interruption)
                self._courier.ensure()
                raise
            else:
                is_recorded = self._outbox.take(send, answers)
        else:
            is_recorded = send
        if self._outbox.has_work:
            self._courier.ensure()
        return is_recorded

    async def _event_outcome(self, event_id: str, recorded: Awaitable[bool]) -> str | None:
        return event_id if await recorded else None

    def _forget_parent(self) -> None:
        super()._forget_parent()
        self._courier.forget_parent()

    def _new_courier(self, sync_client: Callable[[], redis.Redis] | None) -> AsyncCourier:
        client = self._client
        return AsyncCourier(self._outbox, lambda sends: exchange_async(client, sends), sync_client)

    async def _read(self, what: str, commands: Sequence[Command]) -> list[Any] | None:
        if (began_at := self._begin_read(what)) is None:
            return None
        try:
            if isinstance(self._client, redis.asyncio.RedisCluster):
                answers = await send_to_owners_async(self._client, [KeyCommand(str(one[1]), one) for one in commands])
            else:
                pipeline = self._client.pipeline(transaction=False)
                for command in commands:
                    pipeline.execute_command(*command)
                answers = await pipeline.execute(raise_on_error=False)
        except REDIS_ERRORS as error:
            self._no_answers(what, error, began_at)
            return None
        self._outage.answered()
        return answers
