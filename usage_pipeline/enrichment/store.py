"""Stores posts in `app.external_posts`: the last result of each post. A fallback never replaces a fetched post."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import psycopg

from usage_pipeline.enrichment.posts import Post
from usage_pipeline.storage.sql import load


@dataclass(frozen=True, slots=True)
class StoredPosts:
    """The outcome of storing posts. `kept` counts fallbacks whose post is stored from before, and is old now."""

    fetched: int
    fallbacks: int
    kept: int


def store_posts(connection: psycopg.Connection, posts: Sequence[Post], *, fetched_at: datetime) -> StoredPosts:
    """Stores the posts in one statement; each id must come once. A post that was fetched after `fetched_at` stays.

    Raises psycopg.Error when PostgreSQL fails; then no post is stored.
    """
    columns = {
        "ids": [str(post.id) for post in posts],
        "user_ids": [None if post.user_id is None else str(post.user_id) for post in posts],
        "titles": [post.title for post in posts],
        "bodies": [post.body for post in posts],
        "are_fallbacks": [post.is_fallback for post in posts],
    }
    rows = connection.execute(load("enrichment/upsert_external_posts"), columns | {"fetched_at": fetched_at})
    stored = {post_id for (post_id,) in rows}
    fallbacks = [post for post in posts if post.is_fallback]
    kept = sum(str(post.id) not in stored for post in fallbacks)
    return StoredPosts(len(posts) - len(fallbacks), len(fallbacks), kept)
