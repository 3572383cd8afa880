"""Sends what waits in an outbox from a task, which begins with the first of it and ends with the last; and at the exit."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing

import redis

from usage_recorder.delivery.courier import BUSY, AnyCourier, Pace, deliver_all, remember, seconds_after_the_exit
from usage_recorder.delivery.outbox import Outbox
from usage_recorder.delivery.sends import Answer, Send
from usage_recorder.delivery.wire import exchange

_log = logging.getLogger(__name__)


class AsyncCourier(AnyCourier):
    """For a recorder on an event loop. After that, at the exit, it sends through `sync_client` if there is one."""

    def __init__(
        self,
        outbox: Outbox,
        send: Callable[[Sequence[Send]], Awaitable[Sequence[Sequence[Answer]]]],
        sync_client: Callable[[], redis.Redis] | None,
    ) -> None:
        super().__init__(outbox)
        self._send = send
        self._sync_client = sync_client
        self.forget_parent()

    def forget_parent(self) -> None:
        """In a forked child the loop of the parent does not run."""
        self._task: asyncio.Task[None] | None = None
        self._hurry: asyncio.Event | None = None
        self._should_stop = False
        BUSY.discard(self)

    def ensure(self) -> None:
        """Starts the task if there is none on this loop. Where no loop runs, the exit or the next call sees to it."""
        if (seconds := seconds_after_the_exit()) is not None:
            self.flush_at_exit(seconds)
            return
        if self._should_stop:
            return
        remember(self)
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        if self._task is None or self._task.done() or self._task.get_loop() is not loop:
            self._hurry = asyncio.Event()
            self._task = loop.create_task(self._run(self._hurry))

    async def flush(self, timeout_seconds: float) -> bool:
        """Tries at once. Whether nothing is left within the time."""
        ends_at = time.monotonic() + timeout_seconds
        while self.outbox.has_left() and not self._should_stop and (seconds := ends_at - time.monotonic()) > 0:
            self.ensure()
            if self._hurry is not None:
                self._hurry.set()
            if self._task is None:
                break
            await asyncio.wait({self._task}, timeout=seconds)
        return not self.outbox.has_left()

    async def stop(self) -> None:
        self._should_stop = True
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=1)
        BUSY.discard(self)

    def _send_at_exit(self, ends_at: float) -> None:
        self._should_stop = True
        if self._sync_client is not None:
            with closing(self._sync_client()) as client:
                deliver_all(self.outbox, lambda sends: exchange(client, sends), ends_at)

    async def _run(self, hurry: asyncio.Event) -> None:
        pace = Pace()
        while self.outbox.has_left():
            try:
                took_all = await self._deliver(pace.sends)
            except Exception:
                _log.exception("recorder: a portion was not sent; it is tried again")
                took_all = False
            if (pause := pace.note(took_all)) and await _is_set_within(hurry, pause):
                hurry.clear()
                pace.hurry()
        BUSY.discard(self)

    async def _deliver(self, most: int) -> bool:
        portion = self.outbox.portion(most)
        if not portion:
            # What is left waits for its spool file.
            return False
        answers = None
        try:
            answers = await self._send(portion)
        except Exception:
            _log.exception("recorder: a portion was not sent; it is tried again")
        finally:
            # Also when this task is cancelled: nobody knows then what Redis did.
            took_all = self.outbox.end_portion(portion, answers)
        return took_all


async def _is_set_within(event: asyncio.Event, seconds: float) -> bool:
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except asyncio.TimeoutError:  # another class until Python 3.11
        return False
    return True
