"""Fetches the configured posts, a few at a time, and stores them: the asset `external/posts`."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime

import psycopg

from usage_pipeline.enrichment.posts import Post, Sleep, external_client, fetch_post
from usage_pipeline.enrichment.retry_rules import RetryPolicy
from usage_pipeline.enrichment.store import store_posts
from usage_pipeline.settings import Settings
from usage_pipeline.storage.postgres import connect, waiting_for_locks

# The API is somebody else's: that many requests at once, and no more.
REQUESTS_AT_ONCE = 4
# An API that is away costs tens of seconds for each post. What is not tried by then keeps what is stored, until the next run.
BUDGET_SECONDS = 240.0
# For another run to end, before this one gives up.
WAIT_SECONDS = 60.0
_log = logging.getLogger(__name__)


class AlreadyRefreshing(Exception):
    """Another process is fetching the posts. This one sent no request."""


@dataclass(frozen=True, slots=True)
class RefreshReport:
    """`kept` counts fallbacks whose post is stored from before, and stays. `not_tried` posts did not fit in the time budget."""

    wanted: int
    fetched: int
    fallbacks: int
    kept: int
    not_tried: int
    seconds: float

    @property
    def missing_share(self) -> float:
        """The share of fallbacks and posts that were not tried, in all wanted posts: 0 to 1."""
        return (self.fallbacks + self.not_tried) / self.wanted


def refresh_posts(
    settings: Settings, *, sleep: Sleep = asyncio.sleep, timer: Callable[[], float] = time.monotonic
) -> RefreshReport:
    """Fetches the posts of EXTERNAL_POST_IDS once, and stores the outcome in one transaction. It is safe to repeat.

    It takes at most BUDGET_SECONDS plus `RetryPolicy.most_seconds`. An advisory lock lets only one process fetch at a time,
    even without Dagster's limits; another one waits for it up to WAIT_SECONDS. Raises AlreadyRefreshing, PostgresUnavailable,
    or psycopg.Error when nothing could be stored.
    """
    wanted = settings.external_posts
    with closing(connect(settings)) as connection:
        _wait_for_turn(connection)
        began_at, fetched_at = timer(), datetime.now(UTC)
        posts = asyncio.run(_fetched(settings, wanted, sleep, timer))
        seconds = timer() - began_at
        stored = store_posts(connection, posts, fetched_at=fetched_at)
    not_tried = len(wanted) - len(posts)
    if not_tried:
        _log.warning(
            "external posts: %d of %d were not tried, because %g s had passed", not_tried, len(wanted), BUDGET_SECONDS
        )
    return RefreshReport(len(wanted), stored.fetched, stored.fallbacks, stored.kept, not_tried, round(seconds, 3))


def _wait_for_turn(connection: psycopg.Connection) -> None:
    """Takes the lock. It ends with the connection."""
    try:
        with waiting_for_locks(connection, WAIT_SECONDS):
            connection.execute("select pg_advisory_lock(hashtext('external_posts'), 0)")
    except psycopg.errors.LockNotAvailable:
        raise AlreadyRefreshing(
            f"another run has been fetching external posts for more than {WAIT_SECONDS:g} s; it stores them"
        ) from None


async def _fetched(settings: Settings, post_ids: Sequence[int], sleep: Sleep, timer: Callable[[], float]) -> list[Post]:
    policy, until = RetryPolicy.of(settings), timer() + BUDGET_SECONDS
    waiting, posts = iter(post_ids), list[Post]()

    async def work() -> None:
        for post_id in waiting:
            if timer() >= until:
                return
            posts.append(await fetch_post(client, post_id, policy, sleep=sleep))

    async with external_client(settings, connections=REQUESTS_AT_ONCE) as client, asyncio.TaskGroup() as workers:
        for _ in range(REQUESTS_AT_ONCE):
            workers.create_task(work())
    return posts
