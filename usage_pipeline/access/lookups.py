"""Limits what unknown tokens cost PostgreSQL: each is remembered for a second, and strangers wait in line for a connection.

Anybody can send any number of texts that have the form of a token, a cookie or an invitation. The cache has none of them, so
each is a question to PostgreSQL. What was found is no stranger for some minutes. Nothing here says that a token is valid.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import TypeVar

# A token that is made meanwhile is refused no longer than this.
UNKNOWN_SECONDS = 1.0
KNOWN_SECONDS = 600.0
WAIT_SECONDS = 5.0
# Of known prefixes, and as many of unknown ones: about a megabyte each.
MOST_REMEMBERED = 10_000
MOST_WAITING = 1_000
Found = TypeVar("Found")


class TooManyStrangers(Exception):
    """Too many unknown tokens are being looked for. This one may be known: the same request may come again."""


class TokenLookups:
    """Lets strangers be looked up `at_once` at a time. For one event loop. `timer` gives seconds."""

    def __init__(self, at_once: int, timer: Callable[[], float] = time.monotonic) -> None:
        self._places = asyncio.Semaphore(at_once)
        self._waiting = 0
        self._known = _Remembered(KNOWN_SECONDS, timer)
        self._unknown = _Remembered(UNKNOWN_SECONDS, timer)
        self._timer = timer

    async def find(self, name: str, look_up: Callable[[], Awaitable[Found | None]]) -> Found | None:
        """What `look_up` finds, which asks PostgreSQL; None without asking for what was unknown just now.

        `name` is the prefix of a token, or says what else is looked for. Raises TooManyStrangers, and what `look_up` raises.
        """
        if name in self._unknown:
            return None
        if name in self._known:
            return await self._found(name, look_up)
        await self._wait_for_a_place()
        try:
            # Another one may have asked for the same token meanwhile.
            return None if name in self._unknown else await self._found(name, look_up)
        finally:
            self._places.release()

    async def _wait_for_a_place(self) -> None:
        if self._waiting >= MOST_WAITING:
            raise TooManyStrangers
        self._waiting += 1
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await self._places.acquire()
        except TimeoutError:
            raise TooManyStrangers from None
        finally:
            self._waiting -= 1

    async def _found(self, name: str, look_up: Callable[[], Awaitable[Found | None]]) -> Found | None:
        asked_at = self._timer()
        found = await look_up()
        (self._unknown if found is None else self._known).add(name, asked_at)
        return found


class _Remembered:
    """Texts, each for `seconds`, and the newest MOST_REMEMBERED of them."""

    def __init__(self, seconds: float, timer: Callable[[], float]) -> None:
        self._seconds = seconds
        self._timer = timer
        self._until: OrderedDict[str, float] = OrderedDict()

    def __contains__(self, text: str) -> bool:
        return self._timer() < self._until.get(text, -float("inf"))

    def add(self, text: str, at: float) -> None:
        self._until[text] = at + self._seconds
        self._until.move_to_end(text)
        while len(self._until) > MOST_REMEMBERED:
            self._until.popitem(last=False)
