"""Which tokens were revoked lately, from PostgreSQL: so that a copy in Redis is not believed after the token was revoked.

A revocation deletes the copy. Whoever may write to Redis can put it back while it is still valid.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import psycopg
from starlette.concurrency import run_in_threadpool

from usage_pipeline.storage.postgres import first_line
from usage_pipeline.storage.sql import load

Connect = Callable[[], AbstractContextManager[psycopg.Connection]]
# So old is what a process knows at most, while PostgreSQL answers.
REVOCATIONS_SECONDS = 1.0
# Longer than a copy lives, by the difference of any two clocks that tell nearly the same time.
_LATELY_SECONDS = 3_600
_log = logging.getLogger(__name__)


class Revocations:
    """What one process knows, on one event loop. It asks PostgreSQL when it is asked, once for all who ask at that time."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._revoked: frozenset[str] | None = None
        self._asked_at = 0.0
        self._asking: asyncio.Task[None] | None = None
        self._is_away = False

    async def has(self, token_prefix: str) -> bool:
        """Whether the token may be revoked. While PostgreSQL is away, what was known last counts: nobody waits for it again."""
        if self._asking is None and time.monotonic() - self._asked_at >= REVOCATIONS_SECONDS:
            self._asking = asyncio.ensure_future(self._ask())
        if self._asking is not None and not self._is_away:
            await asyncio.shield(self._asking)
        return self._revoked is None or token_prefix in self._revoked

    async def close(self) -> None:
        """Waits for a question that is on its way; the time-outs of the connection limit this."""
        if self._asking is not None:
            await self._asking

    async def _ask(self) -> None:
        began_at = time.monotonic()
        try:
            self._revoked = await run_in_threadpool(self._read)
            self._is_away = False
        except psycopg.Error as error:
            if not self._is_away:
                _log.warning("it is not known which tokens were revoked lately: %s", first_line(error))
            self._is_away = True
        finally:
            self._asked_at = began_at
            self._asking = None

    def _read(self) -> frozenset[str]:
        with self._connect() as connection:
            rows = connection.execute(load("access/select_revoked_tokens"), {"seconds": _LATELY_SECONDS})
            return frozenset(prefix for (prefix,) in rows)
