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
from usage_pipeline.storage.postgres import connect

# The API is somebody else's: that many requests at once, and no more.
REQUESTS_AT_ONCE = 4
# An API that is away costs tens of seconds for each post. What is not tried by then keeps what is stored, until the next run.
BUDGET_SECONDS = 240.0
# For another run to end, before this one gives up.
WAIT_SECONDS = 60.0
_log = logging.getLogger(__name__)


class AlreadyRefreshing(Exception):
    """Another process fetches the posts at this moment; nothing was asked for."""


@dataclass(frozen=True, slots=True)
class RefreshReport:
    """`kept` of the fallbacks found a stored success, which stays; `not_tried` posts had no turn within the budget."""

    wanted: int
    fetched: int
    fallbacks: int
    kept: int
    not_tried: int
    seconds: float

    @property
    def missing_share(self) -> float:
        """Fallbacks and posts that had no turn, of all that were wanted: 0 to 1."""
        return (self.fallbacks + self.not_tried) / self.wanted


def refresh_posts(
    settings: Settings, *, sleep: Sleep = asyncio.sleep, timer: Callable[[], float] = time.monotonic
) -> RefreshReport:
    """Fetches the posts of EXTERNAL_POST_IDS once and stores the outcome in one transaction. May be repeated.

    Takes at most BUDGET_SECONDS and `RetryPolicy.most_seconds` on top. An advisory lock keeps two from asking at once, whatever
    Dagster's limits are; the second waits for up to WAIT_SECONDS before. Raises AlreadyRefreshing, PostgresUnavailable, or
    psycopg.Error when nothing could be stored.
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
        _log.warning("external posts: %d of %d had no turn within %g s", not_tried, len(wanted), BUDGET_SECONDS)
    return RefreshReport(len(wanted), stored.fetched, stored.fallbacks, stored.kept, not_tried, round(seconds, 3))


def _wait_for_turn(connection: psycopg.Connection) -> None:
    """Takes the lock, which ends with the connection."""
    connection.execute("select set_config('lock_timeout', %s, false)", (f"{round(WAIT_SECONDS * 1000)}ms",))
    try:
        connection.execute("select pg_advisory_lock(hashtext('external_posts'), 0)")
    except psycopg.errors.LockNotAvailable:
        raise AlreadyRefreshing(
            f"another run has fetched external posts for {WAIT_SECONDS:g} s and more; it stores what there is"
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
