"""Connections to PostgreSQL, and the meaning of their errors."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import psycopg
from psycopg.abc import PQGen
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus
from psycopg.rows import TupleRow

from usage_pipeline.settings import Settings
from usage_pipeline.storage.servers.supported import postgres_fault
from usage_pipeline.storage.sql import load
from usage_pipeline.storage.time_zones import TimeZoneRefused, expect_time_zone

log = logging.getLogger(__name__)

Result = TypeVar("Result")

APPLICATION_NAME = "usage_pipeline"
# Whoever holds a lock for longer is stuck: its run has failed, and so should those that wait for it.
_LOCK_SECONDS = 300.0
_SESSION = {
    "default_transaction_isolation": "read committed",
    "timezone": "UTC",
    "client_encoding": "UTF8",
    "datestyle": "ISO, YMD",
    "intervalstyle": "postgres",
    "synchronous_commit": "on",
}
_CANCEL_SECONDS = 5.0
# Where Debian, Red Hat, SUSE, and Alpine and macOS keep the certificates of all authorities that the system knows.
_SYSTEM_AUTHORITIES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)


class PostgresUnavailable(Exception):
    """PostgreSQL does not answer. Nothing was changed. The message is one line without secrets."""


class _InterruptibleConnection(psycopg.Connection):
    """A connection that stays usable after any interrupt: the server stops the running statement.

    psycopg does that for KeyboardInterrupt and SystemExit only. Dagster cancels a run with its own exception. Then the server
    would work on and keep the locks of the transaction, and a rollback or an unlock would fail with "another command is already
    in progress".
    """

    def wait(self, gen: PQGen[Result], *arguments: Any, **options: Any) -> Result:
        try:
            return super().wait(gen, *arguments, **options)
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


def connect(settings: Settings, *, statement_seconds: float = 0, any_time_zone: bool = False) -> psycopg.Connection:
    """A new autocommit connection with a session of ours (`prepare_session`); the caller closes it.

    It waits for a lock for at most five minutes. A statement may take `statement_seconds` (0: as long as the server allows).

    Raises PostgresUnavailable when it reaches no writable server within `connect_timeout_seconds`, or cannot read the URL; and,
    unless `any_time_zone`, when the days of the database are not in USAGE_TIMEZONE.
    """
    connection = connect_to(
        settings.database_url.get_secret_value(),
        timeout_seconds=settings.connect_timeout_seconds,
        lock_seconds=_LOCK_SECONDS,
        statement_seconds=statement_seconds,
    )
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


def connect_to(
    url: str, *, timeout_seconds: float, lock_seconds: float = 0, statement_seconds: float = 0
) -> psycopg.Connection:
    """As `connect`, for a URL and with other limits (0: what the server has)."""
    _expect_readable(url)
    try:
        connection = _InterruptibleConnection.connect(url, **connection_options(url, timeout_seconds))
        try:
            if fault := postgres_fault(connection.info.server_version):
                raise PostgresUnavailable(f"PostgreSQL: {fault}")
            prepare_session(connection, lock_seconds=lock_seconds, statement_seconds=statement_seconds)
        except BaseException:
            connection.close()
            raise
    except (psycopg.OperationalError, psycopg.ProgrammingError) as error:
        raise PostgresUnavailable(f"PostgreSQL does not answer: {first_line(error)}") from None
    return connection


def _expect_readable(url: str) -> None:
    with suppress(psycopg.ProgrammingError, UnicodeError):
        conninfo_to_dict(url)
        return
    # libpq's error shows the part that it cannot read, such as the password.
    raise PostgresUnavailable("PostgreSQL: the URL of the database cannot be read")


async def connect_async(settings: Settings, *, statement_seconds: float = 0) -> psycopg.AsyncConnection:
    """As `connect`, for asyncio, and without a limit on the waiting for locks. Raises psycopg.Error."""
    url = settings.database_url.get_secret_value()
    connection = await psycopg.AsyncConnection.connect(url, **connection_options(url, settings.connect_timeout_seconds))
    try:
        _expect_supported(connection.info.server_version)
        found = await connection.execute(load("storage/set_session"), _session(0, statement_seconds))
        set_to = await found.fetchall()
        found = await connection.execute(load("storage/select_session"), {"names": [name for name, _ in set_to]})
        _expect_held(set_to, await found.fetchall())
    except BaseException:
        await connection.close()
        raise
    return connection


def connection_options(url: str, timeout_seconds: float) -> dict[str, Any]:
    """What every connection of ours asks libpq for, beside `url`. A `ConnectionPool` takes it as `kwargs`."""
    return system_authorities(url) | {
        "autocommit": True,
        "connect_timeout": max(2, round(timeout_seconds)),
        "application_name": APPLICATION_NAME,
        "keepalives_idle": 30,
        # A standby answers too, but stores nothing: what is claimed would only wait.
        "target_session_attrs": "read-write",
    }


def system_authorities(url: str) -> dict[str, str]:
    """What to say instead of `sslrootcert=system`; empty when `url` does not say so, or when the libraries find it themselves.

    The OpenSSL in the wheels of psycopg and psycopg2 looks for the system's authorities where it was built, where no other
    machine has any. SSL_CERT_FILE and SSL_CERT_DIR, which it heeds, stay the operator's choice.
    """
    try:
        asked = conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        return {}  # connecting says what is wrong with it
    # With `system` libpq verifies in full, and refuses to do less.
    if asked.get("sslrootcert") != "system" or asked.get("sslmode", "verify-full") != "verify-full":
        return {}
    file = next((file for file in _SYSTEM_AUTHORITIES if Path(file).is_file()), None)
    if file is None or "SSL_CERT_FILE" in os.environ or "SSL_CERT_DIR" in os.environ:
        return {}
    return {"sslrootcert": file, "sslmode": "verify-full"}


def prepare_session(connection: psycopg.Connection, *, lock_seconds: float = 0, statement_seconds: float = 0) -> None:
    """Sets what our transactions rely on, whatever the server, the database, the role or a pooler has set.

    The isolation level, since a lock is often taken before the look that it protects; the time zone, since bounds of
    partitions are read in it; the encoding, since COPY gets bytes; the styles of dates and intervals, which psycopg reads;
    and commits that are durable, since what is committed is deleted from Redis. Limits of 0 stay as the server has them.

    It sets them after connecting, because poolers refuse or drop what is asked for at the start. Raises
    psycopg.OperationalError when a setting does not hold, or the server is older than those that we support.
    """
    _expect_supported(connection.info.server_version)
    set_to = connection.execute(load("storage/set_session"), _session(lock_seconds, statement_seconds)).fetchall()
    names = [name for name, _ in set_to]
    _expect_held(set_to, connection.execute(load("storage/select_session"), {"names": names}).fetchall())


@contextmanager
def waiting_for_locks(connection: psycopg.Connection, seconds: float) -> Iterator[None]:
    """Inside this block a lock is waited for at most so long; then psycopg.errors.LockNotAvailable is raised.

    Afterwards the limit is what it was before.
    """
    [[before]] = connection.execute("select current_setting('lock_timeout')").fetchall()
    set_limit = "select set_config('lock_timeout', %s, false)"
    connection.execute(set_limit, (_milliseconds(seconds),))
    try:
        yield
    finally:
        # A transaction that failed takes the setting back by itself, and executes nothing more.
        is_usable = connection.info.transaction_status is not TransactionStatus.INERROR
        if is_usable and not connection.closed and not connection.broken:
            connection.execute(set_limit, (before,))


def _session(lock_seconds: float, statement_seconds: float) -> dict[str, list[str]]:
    limits = {"lock_timeout": lock_seconds, "statement_timeout": statement_seconds}
    wanted = _SESSION | {name: _milliseconds(seconds) for name, seconds in limits.items() if seconds}
    return {"names": list(wanted), "values": list(wanted.values())}


def _expect_supported(server_version: int) -> None:
    if fault := postgres_fault(server_version):
        raise psycopg.OperationalError(fault)


def _milliseconds(seconds: float) -> str:
    # 0 would be no limit at all.
    return f"{max(1, round(seconds * 1000))}ms"


def _expect_held(set_to: list[TupleRow], held: list[TupleRow]) -> None:
    for (name, wanted), (_, came) in zip(sorted(set_to), sorted(held), strict=True):
        if wanted != came:
            raise psycopg.OperationalError(
                f"expected the session to keep {name} = {wanted}, came {came}; does a pooler change the server between two "
                "statements?"
            )


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
