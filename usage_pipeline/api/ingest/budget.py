"""A budget of bytes for all requests of a process: what they hold together, whoever sent it. On one event loop."""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass
from functools import partial

from usage_pipeline.api.memory import (
    MEDIUM_BYTES,
    SMALL_BYTES,
    bytes_while_stored,
    most_bodies,
    most_documents,
    most_medium_documents,
    most_small_bodies,
)
from usage_pipeline.api.problems import unavailable
from usage_pipeline.settings import Settings


@dataclass(slots=True, eq=False)
class _Waiting:
    size: int
    owner: str
    turn: "asyncio.Future[None]"


class ByteBudget:
    """At most `most` bytes at once. Owners take turns, each in the order of its coming; a large one is not overtaken.

    An owner that holds bytes gets more only while it leaves as many free as it holds: alone it gets half of them. One that
    holds none may have all that are free. Whoever waits for its own bytes only holds up nobody else.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._of_owner: Counter[str] = Counter()
        self._waiting: deque[_Waiting] = deque()

    @asynccontextmanager
    async def of(self, size: int, owner: str, *, seconds: float) -> AsyncIterator[Callable[[int], None]]:
        """So many bytes until the end of the block; the call that it gives makes them fewer.

        Waits `seconds` for them, then raises Problem (503).
        """
        mine = _Waiting(size, owner, asyncio.get_running_loop().create_future())
        self._waiting.append(mine)
        self._serve()
        try:
            async with asyncio.timeout(seconds):
                await mine.turn
        except BaseException as error:
            self._leave(mine)
            if isinstance(error, TimeoutError):
                raise unavailable(
                    "the requests in hand are as large as this server takes at once; send it again"
                ) from None
            raise
        try:
            yield partial(self._shrink, mine)
        finally:
            self._release(mine)

    @property
    def in_hand(self) -> int:
        return self._of_owner.total()

    def _leave(self, mine: _Waiting) -> None:
        if mine.turn.done() and not mine.turn.cancelled():
            # Its turn came at the same moment.
            self._release(mine)
        else:
            self._waiting.remove(mine)
            self._serve()

    def _shrink(self, mine: _Waiting, size: int) -> None:
        if size < mine.size:
            self._of_owner[mine.owner] -= mine.size - size
            mine.size = size
            self._serve()

    def _release(self, mine: _Waiting) -> None:
        self._of_owner[mine.owner] -= mine.size
        if not self._of_owner[mine.owner]:
            del self._of_owner[mine.owner]
        # It had its turn: what else its owner waits for comes after all others.
        self._waiting = deque(sorted(self._waiting, key=lambda other: other.owner == mine.owner))
        self._serve()

    def _serve(self) -> None:
        while one := self._next():
            self._waiting.remove(one)
            self._of_owner[one.owner] += one.size
            one.turn.set_result(None)

    def _next(self) -> _Waiting | None:
        free = self._most - self.in_hand
        for one in self._waiting:
            if one.turn.cancelled():
                # It gave up, and is about to leave.
                continue
            held = self._of_owner[one.owner]
            if held and held + one.size > free - one.size:
                continue
            # Nobody behind may overtake it, or a large one would wait for ever.
            return one if one.size <= free else None
        return None


class Room:
    """What the requests of a process may hold: bodies as they are sent, from before they come, and documents while stored."""

    def __init__(self, settings: Settings) -> None:
        self._small_bodies = ByteBudget(most_small_bodies())
        self._large_bodies = ByteBudget(most_bodies(settings))
        self._medium_documents = ByteBudget(most_medium_documents())
        self._large_documents = ByteBudget(most_documents(settings))
        self._settings = settings

    def for_body(self, size: int, owner: str, *, seconds: float) -> AbstractAsyncContextManager[Callable[[int], None]]:
        """Like `ByteBudget.of`. Small bodies have room of their own: they wait for no large one, of however many owners."""
        room = self._small_bodies if size <= SMALL_BYTES else self._large_bodies
        return room.of(size, owner, seconds=seconds)

    def for_document(self, size: int, owner: str, *, seconds: float) -> AbstractAsyncContextManager[object]:
        """The same, for a document of so many bytes. A small one needs no more than a thread has anyway."""
        if size <= SMALL_BYTES:
            return nullcontext()
        room = self._medium_documents if size <= MEDIUM_BYTES else self._large_documents
        return room.of(bytes_while_stored(size, self._settings), owner, seconds=seconds)
