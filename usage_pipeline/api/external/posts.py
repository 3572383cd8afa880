"""Posts of the external API for callers without a token: few requests at once, one per post; more get the fallback at once.

A post is kept for a minute, a fallback for some seconds: while the API is away, not every reader waits for all tries.

One thread stores the fetched posts, with one connection at a time, so that these callers do not use up the pool.
"""

import asyncio
import json
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import httpx
import psycopg
from psycopg_pool import ConnectionPool

from usage_pipeline.api.external.kept import KeptAnswers
from usage_pipeline.api.metrics.counts import Metrics
from usage_pipeline.enrichment.posts import Post, external_client, fallback, fetch_post
from usage_pipeline.enrichment.retry_rules import RetryPolicy
from usage_pipeline.enrichment.store import store_posts
from usage_pipeline.settings import Settings
from usage_pipeline.storage.postgres import first_line

# Different posts that are fetched at once, each for at most RetryPolicy.most_seconds (35 s by default).
FETCHES_AT_ONCE = 8
# Requests that wait for these, all together.
MOST_WAITING = 200
CACHE_SECONDS = 60.0
# A later success shall replace a fallback soon.
FALLBACK_SECONDS = 8.0
# Of posts, and as many of fallbacks: anybody may ask for two thousand million posts that there are not.
CACHED_POSTS = 1_000
# Of all these posts together: the API may send a megabyte for each.
CACHED_BYTES = 16 * 2**20
# The answer does not wait longer than this for its post to be stored; the next fetch stores it as well.
STORE_SECONDS = 3.0
_log = logging.getLogger(__name__)


class PostDesk:
    """Answers requests for posts, on one event loop. It connects only when a request needs it."""

    def __init__(
        self,
        settings: Settings,
        pool: ConnectionPool,
        metrics: Metrics,
        *,
        client: httpx.AsyncClient | None = None,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self._policy = RetryPolicy.of(settings)
        self._client = client or external_client(settings, connections=FETCHES_AT_ONCE)
        self._pool = pool
        self._metrics = metrics
        limits = {"most": CACHED_POSTS, "most_bytes": CACHED_BYTES}
        self._cache = KeptAnswers(CACHE_SECONDS, **limits, timer=timer)
        self._fallbacks = KeptAnswers(FALLBACK_SECONDS, **limits, timer=timer)
        self._fetches: dict[int, asyncio.Task[bytes]] = {}
        self._waiting = 0
        self._storing = ThreadPoolExecutor(1, thread_name_prefix="external-posts")

    async def answer(self, post_id: int) -> bytes:
        """The post as JSON, or its fallback: at once when it was the answer some seconds ago, or when too many requests run."""
        cached = self._cache.get(post_id) or self._fallbacks.get(post_id)
        self._metrics.cache_lookup("external_post", "hit" if cached else "miss")
        if cached:
            return cached
        fetch = self._fetches.get(post_id)
        if self._waiting >= MOST_WAITING or (fetch is None and len(self._fetches) >= FETCHES_AT_ONCE):
            self._metrics.external_posts.labels("turned_away").inc()
            return _encoded(fallback(post_id))
        if fetch is None:
            # A task of its own: whoever asked first may go away, and others wait for the same post.
            fetch = self._fetches[post_id] = asyncio.create_task(self._fetched(post_id))
            fetch.add_done_callback(lambda _: self._fetches.pop(post_id, None))
        self._waiting += 1
        try:
            return await asyncio.shield(fetch)
        finally:
            self._waiting -= 1

    async def close(self) -> None:
        """Cancels fetches that are running, and waits until fetched posts are stored."""
        for fetch in list(self._fetches.values()):
            fetch.cancel()
        await asyncio.gather(*self._fetches.values(), return_exceptions=True)
        await self._client.aclose()
        await asyncio.to_thread(self._storing.shutdown, cancel_futures=True)

    async def _fetched(self, post_id: int) -> bytes:
        fetched_at = datetime.now(UTC)
        post = await fetch_post(self._client, post_id, self._policy)
        self._metrics.external_posts.labels("fallback" if post.is_fallback else "fetched").inc()
        answer = _encoded(post)
        if post.is_fallback:
            # Not stored: the table would grow by whatever anybody asks for.
            self._fallbacks.keep(post_id, answer)
        else:
            self._cache.keep(post_id, answer)
            await self._stored(post, fetched_at)
        return answer

    async def _stored(self, post: Post, fetched_at: datetime) -> None:
        def store() -> None:
            with self._pool.connection(timeout=STORE_SECONDS) as connection:
                store_posts(connection, [post], fetched_at=fetched_at)

        try:
            async with asyncio.timeout(STORE_SECONDS):
                await asyncio.get_running_loop().run_in_executor(self._storing, store)
        except (psycopg.Error, TimeoutError) as error:
            # The answer does not depend on it.
            _log.warning("external post %d was answered, but could not be stored: %s", post.id, first_line(error))


def _encoded(post: Post) -> bytes:
    return json.dumps(post.document(), ensure_ascii=False, separators=(",", ":")).encode()
