"""Advisory locks for the chunks of a table: for processes that change chunks, and for readers whose chunk must not go away.

Each lock is for one table (schema.name). Take the locks before any lock on the table itself, in this order: `changing`,
`removing`, the lock of partitions.py, the parent, the partition.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from usage_pipeline.storage.postgres import waiting_for_locks

# A chunk is locked against readers and writers only for as long as this, then the next run tries again.
LOCK_SECONDS = 2.0
# Whoever changes chunks holds the lock for one of them at a time, but that one may be large.
CHANGE_WAIT_SECONDS = 60.0


class ChunksBusy(Exception):
    """Another process holds the lock. Nothing was changed; run the same command again later."""


@contextmanager
def changing(
    connection: psycopg.Connection, table: str, *, wait_seconds: float = CHANGE_WAIT_SECONDS
) -> Iterator[None]:
    """Only one process at a time archives, restores, rewrites or drops chunks of `table`, and touches their files.

    The session holds the lock: a process that loses it has also lost the connection, and cannot commit any more.
    Raises ChunksBusy when the lock is not free within `wait_seconds`.
    """
    with lock_timeout(
        connection, wait_seconds, f"{table}: another lifecycle run, restore or erasure is running; try again later"
    ):
        connection.execute("select pg_advisory_lock(hashtext('lifecycle'), hashtext(%s))", (table,))
    try:
        yield
    finally:
        if not connection.closed and not connection.broken:
            connection.execute("select pg_advisory_unlock(hashtext('lifecycle'), hashtext(%s))", (table,))


def removing(connection: psycopg.Connection, table: str) -> None:
    """Waits for readers of chunks (`reading`), and keeps new readers out until the end of the transaction."""
    connection.execute("select pg_advisory_xact_lock(hashtext('chunks'), hashtext(%s))", (table,))


def reading(connection: psycopg.Connection, table: str) -> None:
    """No chunk of `table` goes away until the end of the transaction. The transaction must not use one snapshot for all.

    TRUNCATE and DROP do not keep rows for older snapshots, so a window would be replaced by too few rows. A process that
    removes a chunk waits at most `LOCK_SECONDS`, so this does not wait for long.
    """
    connection.execute("select pg_advisory_xact_lock_shared(hashtext('chunks'), hashtext(%s))", (table,))


@contextmanager
def reading_with_one_snapshot(connection: psycopg.Connection, table: str) -> Iterator[None]:
    """No chunk of `table` goes away inside this block. It is for a transaction inside that uses one snapshot for all.

    The session holds the lock. If the transaction took it, the lock would come after the snapshot.
    """
    connection.execute("select pg_advisory_lock_shared(hashtext('chunks'), hashtext(%s))", (table,))
    try:
        yield
    finally:
        if not connection.closed and not connection.broken:
            connection.execute("select pg_advisory_unlock_shared(hashtext('chunks'), hashtext(%s))", (table,))


@contextmanager
def lock_timeout(connection: psycopg.Connection, seconds: float, busy: str) -> Iterator[None]:
    """Inside this block, a lock is waited for at most so long. Raises ChunksBusy with the text `busy`."""
    try:
        with waiting_for_locks(connection, seconds):
            yield
    except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected) as error:
        raise ChunksBusy(busy) from error
