"""A budget of bytes for all requests of a process: what they hold together, whoever sent it. On one event loop."""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

from usage_pipeline.api.memory import most_bodies, most_documents
from usage_pipeline.api.problems import unavailable
from usage_pipeline.settings import Settings


@dataclass(slots=True, eq=False)
class _Waiting:
    size: int
    owner: str
    turn: "asyncio.Future[None]"


class ByteBudget:
    """At most `most` bytes at once, and at most `most_per_owner` of one owner. Who comes first is served first.

    Whoever waits for its own bytes only holds up nobody else.
    """

    def __init__(self, most: int, most_per_owner: int | None = None) -> None:
        self._most = most
        self._most_per_owner = most if most_per_owner is None else most_per_owner
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
        self._serve()

    def _serve(self) -> None:
        for one in list(self._waiting):
            if one.turn.cancelled():
                # It gave up, and is about to leave.
                continue
            if self.in_hand + one.size > self._most:
                # Nobody behind may overtake it, or a large one would wait for ever.
                return
            if self._of_owner[one.owner] + one.size > self._most_per_owner:
                continue
            self._waiting.remove(one)
            self._of_owner[one.owner] += one.size
            one.turn.set_result(None)


class Room:
    """What the requests of a process may hold: bodies as they are sent, from before they come, and documents while stored.

    Of bodies, half is the most for one token: they stay for as long as a slow sender takes.
    """

    def __init__(self, settings: Settings) -> None:
        self.bodies = ByteBudget(most_bodies(settings), most_bodies(settings) // 2)
        self.documents = ByteBudget(most_documents(settings))
