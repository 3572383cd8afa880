"""Posts of the external API for callers without a token: few requests at once, one per post. A post is kept for a minute.

One thread stores the fetched posts, with one connection at a time, so that these callers do not use up the pool.
"""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import httpx
import psycopg
from psycopg_pool import ConnectionPool

from usage_pipeline.api.metrics.counts import Metrics
from usage_pipeline.api.problems import unavailable
from usage_pipeline.enrichment.posts import Post, external_client, fetch_post
from usage_pipeline.enrichment.retry_rules import RetryPolicy
from usage_pipeline.enrichment.store import store_posts
from usage_pipeline.settings import Settings
from usage_pipeline.storage.postgres import first_line

# Different posts that are fetched at once, each for at most RetryPolicy.most_seconds (35 s by default).
FETCHES_AT_ONCE = 8
# Requests that wait for these, all together.
MOST_WAITING = 200
CACHE_SECONDS = 60.0
CACHED_POSTS = 1_000
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
        self._timer = timer
        self._cache: OrderedDict[int, tuple[float, Post]] = OrderedDict()
        self._fetches: dict[int, asyncio.Task[Post]] = {}
        self._waiting = 0
        self._storing = ThreadPoolExecutor(1, thread_name_prefix="external-posts")

    async def post(self, post_id: int) -> Post:
        """The post, or its fallback. Raises Problem (503) when too many requests are running."""
        cached = self._cached(post_id)
        self._metrics.cache_lookup("external_post", "hit" if cached else "miss")
        if cached:
            return cached
        fetch = self._fetches.get(post_id)
        if self._waiting >= MOST_WAITING or (fetch is None and len(self._fetches) >= FETCHES_AT_ONCE):
            self._metrics.external_posts.labels("turned_away").inc()
            raise unavailable(
                f"this server is fetching {len(self._fetches)} posts for {self._waiting} requests, and takes no more now"
            )
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

    def _cached(self, post_id: int) -> Post | None:
        fetched_at, post = self._cache.get(post_id, (0.0, None))
        return post if post and self._timer() - fetched_at < CACHE_SECONDS else None

    async def _fetched(self, post_id: int) -> Post:
        fetched_at = datetime.now(UTC)
        post = await fetch_post(self._client, post_id, self._policy)
        self._metrics.external_posts.labels("fallback" if post.is_fallback else "fetched").inc()
        if not post.is_fallback:
            # Fallbacks are not stored here: anybody may ask for two thousand million posts that there are not.
            self._cache[post_id] = self._timer(), post
            self._cache.move_to_end(post_id)
            while len(self._cache) > CACHED_POSTS:
                self._cache.popitem(last=False)
            await self._stored(post, fetched_at)
        return post

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
