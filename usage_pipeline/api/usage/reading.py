"""Reads listings of usage from PostgreSQL: one page, or all rows through a server-side cursor."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from threading import Lock
from typing import Any

import psycopg
from psycopg import sql as compose
from psycopg.rows import tuple_row
from psycopg_pool import ConnectionPool

from usage_pipeline.api.usage.resources import Listing
from usage_pipeline.bindings import Binding
from usage_pipeline.storage.sql import composed, relation

Row = tuple[Any, ...]
Arguments = Mapping[str, Any]
MAX_EXPORT_ROWS = 1_000_000
# What is held in memory of an export, whatever its size.
ROWS_PER_CHUNK = 5_000
_ROWS_PER_FETCH = 500
# An export that nobody reads on ends after so long, and its connection is free again.
_IDLE_SECONDS = 60


class TooManyRows(Exception):
    """An export has more than MAX_EXPORT_ROWS rows."""


def page(
    connection: psycopg.Connection, listing: Listing, arguments: Arguments, limit: int, binding: Binding | None = None
) -> tuple[list[Row], bool]:
    """At most `limit` rows, and whether there are more. With a binding, only what it may see."""
    # Planned with its values: a generic plan could not leave out the conditions of filters that are not given.
    query, arguments = bound_query(listing, {**arguments, "most": limit + 1}, binding)
    rows = connection.execute(query, arguments, prepare=False).fetchall()
    return rows[:limit], len(rows) > limit


@dataclass(frozen=True, slots=True)
class Rows:
    """A query and its arguments, of which `most` is how many rows it gives at most; `settings` come before it."""

    query: compose.Composed
    arguments: Arguments
    settings: str = ""


def rows_of(listing: Listing, arguments: Arguments, binding: Binding | None) -> Rows:
    """The rows of a listing for a binding, or for all."""
    return Rows(*bound_query(listing, arguments, binding))


class Export:
    """All rows of a query, as they are at one moment. It holds a connection of the pool until `close`. Each call blocks.

    Different threads may call. `close` waits for another call that is still at work.
    """

    def __init__(self, pool: ConnectionPool, rows: Rows) -> None:
        self._pool = pool
        self._query, self._settings = rows.query, rows.settings
        self._arguments = {**rows.arguments, "most": MAX_EXPORT_ROWS + 1}
        self._held = ExitStack()
        self._cursor: psycopg.ServerCursor[Row] | None = None
        self._lock = Lock()
        self._is_closed = False

    def open(self) -> None:
        """Takes a connection and counts the rows. Raises TooManyRows or psycopg.Error."""
        with self._lock:
            self._expect_open()
            connection = self._held.enter_context(self._pool.connection())
            self._held.enter_context(connection.transaction(force_rollback=True))
            connection.execute("set transaction isolation level repeatable read, read only")
            connection.execute(f"set local idle_in_transaction_session_timeout = '{_IDLE_SECONDS}s'")
            if self._settings:
                connection.execute(self._settings)
            counting = compose.SQL("select count(*) from ({}) as counted").format(self._query)
            [(count,)] = connection.execute(counting, self._arguments, prepare=False).fetchall()
            if count > MAX_EXPORT_ROWS:
                raise TooManyRows
            self._cursor = connection.cursor("export", row_factory=tuple_row)
            self._held.enter_context(self._cursor)
            self._cursor.execute(self._query, self._arguments)

    def chunk(self) -> Sequence[Row]:
        """The next rows, at most ROWS_PER_CHUNK. At the end there are none. Raises psycopg.Error."""
        with self._lock:
            self._expect_open()
            assert self._cursor is not None  # noqa: S101  # `open` came first
            # In parts: whoever makes rows of an answer of the server holds the interpreter.
            rows: list[Row] = []
            while len(rows) < ROWS_PER_CHUNK and (part := self._cursor.fetchmany(_ROWS_PER_FETCH)):
                rows += part
            return rows

    def close(self) -> None:
        """Gives the connection back. It may be called twice, and before `open`."""
        with self._lock:
            self._is_closed = True
            with suppress(psycopg.Error):  # the connection may be lost; then the pool replaces it
                self._held.close()

    def _expect_open(self) -> None:
        if self._is_closed:
            raise RuntimeError("the export was closed before it was read")


def bound_query(
    listing: Listing, arguments: Arguments, binding: Binding | None
) -> tuple[compose.Composed, dict[str, Any]]:
    """The listing's query and its arguments, for a binding or for all."""
    parts, bounds = bound_parts(binding)
    return composed(f"api/usage/select_{listing.query}", **parts), {**arguments, **bounds}


def bound_parts(binding: Binding | None) -> tuple[dict[str, compose.Composable], dict[str, Any]]:
    """Parts of a query, and their arguments: `usage`, the days of models that have the members of a binding, and `within`,
    conditions to add to others.
    """
    members = {} if binding is None else binding.bounds.members
    conditions = [
        compose.SQL("\nand {} = any({})").format(compose.Identifier(name), compose.Placeholder(f"bound_{name}"))
        for name in members
    ]
    parts: dict[str, compose.Composable] = {
        # The days of users are those of the models, told apart by one column more.
        "usage": relation(f"analytics.{'usage_user_daily' if 'user_id' in members else 'usage_daily'}"),
        "within": compose.SQL("").join(conditions),
    }
    return parts, {f"bound_{name}": list(kept) for name, kept in members.items()}
