"""Connections to PostgreSQL, and the meaning of their errors."""

import logging
from typing import Any, TypeVar

import psycopg
from psycopg.abc import PQGen
from psycopg.pq import TransactionStatus

from usage_pipeline.settings import Settings
from usage_pipeline.storage.time_zones import TimeZoneRefused, expect_time_zone

log = logging.getLogger(__name__)

Result = TypeVar("Result")

APPLICATION_NAME = "usage_pipeline"
# Whoever holds a lock for longer is stuck: its run has failed, and so should those that wait for it.
_LOCK_MINUTES = 5
_CANCEL_SECONDS = 5.0


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


def connect(settings: Settings, *, statement_seconds: int = 0, any_time_zone: bool = False) -> psycopg.Connection:
    """A new autocommit connection with the session time zone UTC; the caller closes it.

    It waits for a lock for at most five minutes. A statement may take `statement_seconds` (0: as long as the server allows).

    Raises PostgresUnavailable when it reaches no writable server within `connect_timeout_seconds`, or cannot read the URL; and,
    unless `any_time_zone`, when the days of the database are not in USAGE_TIMEZONE.
    """
    # Without one, what an administrator has set for the role stays.
    limit = f" -c statement_timeout={statement_seconds}s" if statement_seconds else ""
    try:
        connection = _InterruptibleConnection.connect(
            settings.database_url.get_secret_value(),
            autocommit=True,
            connect_timeout=max(2, round(settings.connect_timeout_seconds)),
            application_name=APPLICATION_NAME,
            options=f"-c timezone=UTC -c lock_timeout={_LOCK_MINUTES}min{limit}",
            keepalives_idle=30,
            # A standby answers too, but stores nothing: what is claimed would only wait.
            target_session_attrs="read-write",
        )
    except (psycopg.OperationalError, psycopg.ProgrammingError) as error:
        raise PostgresUnavailable(f"PostgreSQL does not answer: {first_line(error)}") from None
    try:
        if not any_time_zone:
            expect_time_zone(connection, settings.usage_timezone)
    except TimeZoneRefused as refused:
        connection.close()
        raise PostgresUnavailable(str(refused)) from None
    except BaseException:
        connection.close()
        raise
    return connection


def first_line(error: BaseException) -> str:
    """The first line of an error, for a log."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def is_connection_lost(error: BaseException) -> bool:
    """Whether the connection is lost or the server stops, so that no other statement would succeed."""
    if not isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        return False
    # Without a state the error is the client's own: "the connection is closed". Class 08: the connection; 57P: the server.
    return error.sqlstate is None or error.sqlstate.startswith(("08", "57P"))
