"""Runs blocking work: connections to PostgreSQL, a thread for each, and limits on how much waits for them."""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AsyncExitStack
from typing import TypeVar

import psycopg

from usage_pipeline.api.places import Places
from usage_pipeline.api.problems import unavailable
from usage_pipeline.settings import Settings
from usage_pipeline.storage.postgres import connection_pool, first_line, is_mended_by_time

# Requests that are received or wait for a thread, for each connection: more are turned away at once, before their body is read.
REQUESTS_PER_CONNECTION = 6
# One statement; a batch that waits for another with the same ids, or for a partition that is archived, gives up then.
STATEMENT_SECONDS = 30
# All of one batch, the waiting for a thread included.
STORE_SECONDS = 60
_AGAIN = "send the same request again: what is stored already is not stored twice"
_log = logging.getLogger(__name__)
Answer = TypeVar("Answer")


class Storing:
    """A pool of DB_POOL_SIZE connections, opened when needed, and as many threads."""

    def __init__(self, settings: Settings) -> None:
        self.pool = connection_pool(settings, most=settings.db_pool_size, statement_seconds=STATEMENT_SECONDS)
        self._threads = ThreadPoolExecutor(settings.db_pool_size, thread_name_prefix="storing")
        self._keeping: set[asyncio.Task[None]] = set()
        # One for each request, from before its body is read until it is answered and its thread has ended.
        self.places = Places(
            REQUESTS_PER_CONNECTION * settings.db_pool_size,
            "requests",
            "this server takes no more at once; send it again",
        )

    async def in_thread(self, work: Callable[[], Answer], held: AsyncExitStack | None = None) -> Answer:
        """Runs `work` in one of our threads; it takes its connection from the pool. Raises Problem (503).

        Nobody can stop a thread. So when it goes on after the time-out, what is `held` for it is kept until it has ended.
        """
        job = self._threads.submit(work)
        try:
            async with asyncio.timeout(STORE_SECONDS):
                return await asyncio.wrap_future(job)
        except TimeoutError:
            detail = f"no outcome within {STORE_SECONDS} s; {_AGAIN}"
            raise unavailable(detail) from None
        except psycopg.errors.ObjectNotInPrerequisiteState as error:
            # Of ops.expect_time_zone: this server has another USAGE_TIMEZONE than the database, or a rezone is at work.
            _log.warning("%s", first_line(error))
            raise unavailable(f"the time zone of days is being changed; {_AGAIN}") from None
        except psycopg.Error as error:
            if not is_mended_by_time(error):
                raise
            _log.warning("PostgreSQL does not answer: %s", first_line(error))
            detail = f"the database does not answer; {_AGAIN}"
            raise unavailable(detail) from None
        finally:
            if held is not None and not (job.done() or job.cancel()):
                self._keep(held.pop_all(), job)

    def _keep(self, held: AsyncExitStack, job: "Future[Answer]") -> None:
        async def give_back() -> None:
            async with held:
                # Nobody is there to hear of its error.
                await asyncio.gather(asyncio.wrap_future(job), return_exceptions=True)

        task = asyncio.create_task(give_back())
        self._keeping.add(task)
        task.add_done_callback(self._keeping.discard)

    def close(self) -> None:
        """Waits until everything that is being stored is done. The time-outs limit this."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        self.pool.close()
