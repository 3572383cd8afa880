"""Connections to PostgreSQL, and the meaning of their errors."""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any, Self, TypeVar

import psycopg
from psycopg.abc import PQGen
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus
from psycopg_pool import ConnectionPool

from usage_pipeline.settings import Settings
from usage_pipeline.storage.connecting.database import Database
from usage_pipeline.storage.connecting.passwords import PasswordUnavailable
from usage_pipeline.storage.connecting.session import (
    Session,
    SharedSession,
    begun,
    expect_held,
    expect_own_server,
    milliseconds,
    wanted,
)
from usage_pipeline.storage.servers.supported import UnsupportedServer, expect_supported_postgres
from usage_pipeline.storage.sql import load
from usage_pipeline.storage.time_zones import TimeZoneRefused, expect_time_zone

log = logging.getLogger(__name__)

Result = TypeVar("Result")

# Whoever holds a lock for longer is stuck: its run has failed, and so should those that wait for it.
LOCK_SECONDS = 300.0
_CANCEL_SECONDS = 5.0
_SET, _LOOK = "storage/set_session", "storage/select_session"
# A second connection says within this time on which servers it was, statement by statement.
_LOOK_SECONDS = 2.0
_LOOKS = 3


class PostgresUnavailable(Exception):
    """PostgreSQL does not answer. Nothing was changed. The message is one line without secrets."""


class _Connection(psycopg.Connection):
    """A connection that stays usable after any interrupt: the server stops the running statement.

    psycopg does that for KeyboardInterrupt and SystemExit only. Dagster cancels a run with its own exception. Then the server
    would work on and keep the locks of the transaction, and a rollback or an unlock would fail with "another command is already
    in progress".
    """

    _patience_seconds: float | None = None

    @classmethod
    def log_in(cls, url: str, **options: Any) -> Self:
        """A connection as the server makes it."""
        return super().connect(url, **options)

    @contextmanager
    def answering_within(self, seconds: float) -> Iterator[None]:
        """Inside this block each answer comes within this time, or psycopg.OperationalError is raised: then close it."""
        self._patience_seconds = seconds
        try:
            yield
        finally:
            self._patience_seconds = None

    def wait(self, gen: PQGen[Result], *arguments: Any, **options: Any) -> Result:
        if self._patience_seconds is not None:
            options.setdefault("timeout", self._patience_seconds)
        try:
            return super().wait(gen, *arguments, **options)
        except psycopg.errors._WaitTimeout:
            raise _no_answer(float(options.get("timeout") or 0)) from None
        except (Exception, KeyboardInterrupt, SystemExit):
            raise
        except BaseException:
            if self.pgconn.transaction_status == TransactionStatus.ACTIVE:
                self._stop_statement(gen)
            raise

    def _stop_statement(self, gen: PQGen[Any]) -> None:
        try:
            self.cancel_safe(timeout=_CANCEL_SECONDS)
            super().wait(gen, timeout=_CANCEL_SECONDS)
        except psycopg.errors.QueryCanceled:
            pass  # as asked
        except Exception as error:
            log.warning(
                "PostgreSQL: a statement could not be stopped (%s); the connection is closed", first_line(error)
            )
            self.close()


class _PooledConnection(_Connection):
    """One of a pool, which makes connections by this method of their class."""

    @classmethod
    def connect(  # type: ignore[override]  # of the pool only
        cls, conninfo: str, *, database: Database, statement_seconds: float, connect_timeout: float | None = None
    ) -> _Connection:
        """Opens a connection as `storage.postgres.connect` does; the time that the pool would give it is that of `database`."""
        return _begin(cls, database, statement_seconds=statement_seconds)


def connect(settings: Settings, *, statement_seconds: float = 0, any_time_zone: bool = False) -> psycopg.Connection:
    """A new autocommit connection with a session of ours (`connecting/session.py`); the caller closes it.

    It waits for a lock for at most five minutes. A statement may take `statement_seconds` (0: as long as the server allows).

    Raises PostgresUnavailable when it reaches no writable server within `connect_timeout_seconds`, cannot read the URL, or gets
    no session of its own from a pooler; and, unless `any_time_zone`, when the days of the database are not in USAGE_TIMEZONE.
    """
    connection = connect_to(Database.of_usage(settings), lock_seconds=LOCK_SECONDS, statement_seconds=statement_seconds)
    try:
        if not any_time_zone:
            expect_time_zone(connection, settings.usage_timezone)
    except TimeZoneRefused as refused:
        connection.close()
        raise PostgresUnavailable(str(refused)) from None
    except psycopg.OperationalError as error:
        connection.close()
        raise PostgresUnavailable(f"PostgreSQL does not answer: {first_line(error)}") from None
    except BaseException:
        connection.close()
        raise
    return connection


def connect_to(database: Database, *, lock_seconds: float = 0, statement_seconds: float = 0) -> psycopg.Connection:
    """As `connect`, for any database and with other limits (0: what the server has)."""
    _expect_readable(database.url)
    try:
        return _begin(_Connection, database, lock_seconds=lock_seconds, statement_seconds=statement_seconds)
    except (PasswordUnavailable, SharedSession, UnsupportedServer) as error:
        raise PostgresUnavailable(f"PostgreSQL: {error}") from None
    except (psycopg.OperationalError, psycopg.ProgrammingError) as error:
        raise PostgresUnavailable(f"PostgreSQL does not answer: {first_line(error)}") from None


def connection_pool(settings: Settings, *, most: int, statement_seconds: float) -> ConnectionPool[psycopg.Connection]:
    """A closed pool of up to `most` connections as `connect` makes them, which opens each when it is needed."""
    return ConnectionPool(
        min_size=0,
        max_size=most,
        open=False,
        check=ConnectionPool.check_connection,
        timeout=settings.connect_timeout_seconds,
        # Then the next request tries anew, instead of waiting for the next of ever longer pauses.
        reconnect_timeout=settings.connect_timeout_seconds,
        connection_class=_PooledConnection,
        kwargs={"database": Database.of_usage(settings), "statement_seconds": statement_seconds},
    )


def _begin(
    kind: type["_Connection"], database: Database, *, lock_seconds: float = 0, statement_seconds: float = 0
) -> "_Connection":
    """Logs in and sets the session. Raises psycopg.Error."""
    connection = _log_in(kind, database)
    try:
        expect_supported_postgres(connection.info.server_version)
        # A pooler may take a client for which it has no server, and let it wait.
        with connection.answering_within(database.timeout_seconds):
            asked = wanted(lock_seconds=lock_seconds, statement_seconds=statement_seconds)
            session = begun(connection.execute(load(_SET), asked).fetchall(), connection.info.backend_pid)
            if session.is_pooled:
                _expect_own_server(session, database)
                names = {"names": list(session.set_to)}
                expect_held(session, connection.execute(load(_LOOK), names).fetchall())
    except BaseException:
        connection.close()
        raise
    return connection


def _log_in(kind: type["_Connection"], database: Database) -> "_Connection":
    """A connection as the server makes it. A password that is refused is asked for again, once."""
    password = database.password.current() if database.password else None
    try:
        return kind.log_in(database.url, **database.options(password))
    except psycopg.OperationalError as error:
        if database.password is None or password is None or not database.may_be_refused(error):
            raise
        instead = database.password.another_than(password)
        if instead is None:
            raise
    return kind.log_in(database.url, **database.options(instead))


# Which URLs gave sessions of our own, by a pooler. What is changed there later is seen by the marks of sessions.
_not_sharing: set[str] = set()


def _expect_own_server(session: Session, database: Database) -> None:
    """Looks once in a process, by a second connection, whether a pooler shares its servers. Raises SharedSession.

    The second one may get no server, when all are taken: then nothing is known, and the next connection looks again.
    """
    if database.url in _not_sharing:
        return
    try:
        with closing(_log_in(_Connection, database)) as another, another.answering_within(_LOOK_SECONDS):
            pids = [another.execute("select pg_backend_pid()").fetchall()[0][0] for _ in range(_LOOKS)]
    except psycopg.OperationalError as error:
        log.debug("PostgreSQL: no second server to compare with: %s", first_line(error))
        return
    expect_own_server(session, pids)
    _not_sharing.add(database.url)


def _expect_readable(url: str) -> None:
    with suppress(psycopg.ProgrammingError, UnicodeError):
        conninfo_to_dict(url)
        return
    # libpq's error shows the part that it cannot read, such as the password.
    raise PostgresUnavailable("PostgreSQL: the URL of the database cannot be read")


async def connect_async(settings: Settings, *, statement_seconds: float = 0) -> psycopg.AsyncConnection:
    """As `connect`, for asyncio, and without a limit on the waiting for locks. Raises psycopg.Error."""
    database = Database.of_usage(settings)
    connection = await _log_in_async(database)
    try:
        expect_supported_postgres(connection.info.server_version)
        async with asyncio.timeout(database.timeout_seconds + _LOOK_SECONDS):
            found = await connection.execute(load(_SET), wanted(statement_seconds=statement_seconds))
            session = begun(await found.fetchall(), connection.info.backend_pid)
            if session.is_pooled:
                await asyncio.to_thread(_expect_own_server, session, database)
                found = await connection.execute(load(_LOOK), {"names": list(session.set_to)})
                expect_held(session, await found.fetchall())
    except TimeoutError:
        await connection.close()
        raise _no_answer(database.timeout_seconds) from None
    except BaseException:
        await connection.close()
        raise
    return connection


async def _log_in_async(database: Database) -> psycopg.AsyncConnection:
    password = await asyncio.to_thread(database.password.current) if database.password else None
    try:
        return await psycopg.AsyncConnection.connect(database.url, **database.options(password))
    except psycopg.OperationalError as error:
        if database.password is None or password is None or not database.may_be_refused(error):
            raise
        instead = await asyncio.to_thread(database.password.another_than, password)
        if instead is None:
            raise
    return await psycopg.AsyncConnection.connect(database.url, **database.options(instead))


def _no_answer(seconds: float) -> psycopg.OperationalError:
    return psycopg.OperationalError(f"no answer within {seconds:g} s; is every server of a pooler taken?")


@contextmanager
def waiting_for_locks(connection: psycopg.Connection, seconds: float) -> Iterator[None]:
    """Inside this block a lock is waited for at most so long; then psycopg.errors.LockNotAvailable is raised.

    Afterwards the limit is what it was before.
    """
    [[before]] = connection.execute("select current_setting('lock_timeout')").fetchall()
    set_limit = "select set_config('lock_timeout', %s, false)"
    connection.execute(set_limit, (milliseconds(seconds),))
    try:
        yield
    finally:
        # A transaction that failed takes the setting back by itself, and executes nothing more.
        is_usable = connection.info.transaction_status is not TransactionStatus.INERROR
        if is_usable and not connection.closed and not connection.broken:
            connection.execute(set_limit, (before,))


def first_line(error: BaseException) -> str:
    """The first line of an error, for a log."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


_ROLLED_BACK = "40"
# Classes of SQLSTATE that say what a server is at, and nothing of the statement: connection, state of the transaction (a server
# that became read-only, time-outs of transactions), rollback (serialization, deadlock), resources, locks, operator, disk.
_MENDED_BY_TIME = ("08", "25", _ROLLED_BACK, "53", "55", "57", "58")


def is_mended_by_time(error: psycopg.Error) -> bool:
    """Whether the same work may succeed later, since the server or the way to it was at fault, and not the work.

    By class and not by a list of errors: each version of PostgreSQL has new ones. An error without a state is the client's own,
    such as "the connection is closed".
    """
    if error.sqlstate is None:
        return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    return error.sqlstate.startswith(_MENDED_BY_TIME)


def is_rolled_back(error: psycopg.Error) -> bool:
    """Whether the server gave up the transaction for another one: a serialization failure or a deadlock."""
    return error.sqlstate is not None and error.sqlstate.startswith(_ROLLED_BACK)


def is_connection_lost(error: BaseException) -> bool:
    """Whether the connection is lost or the server stops, so that no other statement would succeed."""
    if not isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        return False
    # Without a state the error is the client's own: "the connection is closed". Class 08: the connection; 57P: the server.
    return error.sqlstate is None or error.sqlstate.startswith(("08", "57P"))


def refused_for_good(error: BaseException) -> str | None:
    """The sentence of a statement that would be refused again however often: its data (22), a constraint (23), or itself (42).

    None for any other error. The classes are those of SQLSTATE.
    """
    if not isinstance(error, psycopg.Error) or not (error.sqlstate or "").startswith(("22", "23", "42")):
        return None
    # 42P01, 42703, 42883: a table, a column, a function.
    is_missing = error.sqlstate in ("42P01", "42703", "42883")
    hint = "; if the schema is older than this version, run: usage-pipeline migrate" if is_missing else ""
    return f"PostgreSQL refused: {first_line(error)}{hint}"
