"""Connections to PostgreSQL, and what their errors say."""

import logging
from typing import Any, TypeVar

import psycopg
from psycopg.abc import PQGen
from psycopg.pq import TransactionStatus

from usage_pipeline.settings import Settings

log = logging.getLogger(__name__)

Result = TypeVar("Result")

APPLICATION_NAME = "usage_pipeline"
# Whoever holds a lock for longer is stuck: its run has failed, and so should those that wait for it.
_LOCK_MINUTES = 5
_CANCEL_SECONDS = 5.0


class PostgresUnavailable(Exception):
    """PostgreSQL does not answer; nothing was changed. The message is one line without secrets."""


class _InterruptibleConnection(psycopg.Connection):
    """One that an interrupt of any kind leaves usable, and the server without the statement that was in hand.

    psycopg sees to that for KeyboardInterrupt and SystemExit only. Dagster cancels a run by an exception of its own: the
    server would work on and keep the transaction's locks, and a rollback or an unlock would fail as "another command is
    already in progress".
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


def connect(settings: Settings, *, statement_seconds: int = 0) -> psycopg.Connection:
    """A new autocommit connection with the session time zone UTC; the caller closes it.

    A lock is waited for at most five minutes, a statement takes at most `statement_seconds` (0: as long as the server lets it).

    Raises PostgresUnavailable when no server that can be written to is reached within `connect_timeout_seconds`, or the
    URL cannot be read.
    """
    # Without one, what an administrator has set for the role stays.
    limit = f" -c statement_timeout={statement_seconds}s" if statement_seconds else ""
    try:
        return _InterruptibleConnection.connect(
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


def first_line(error: BaseException) -> str:
    """What an error says, cut to one line for a log."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def is_connection_lost(error: BaseException) -> bool:
    """Whether the error says that the connection is gone, or that the server is going: no other statement would succeed."""
    if not isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        return False
    # Without a state the error is the client's own: "the connection is closed". Class 08: the connection; 57P: the server.
    return error.sqlstate is None or error.sqlstate.startswith(("08", "57P"))
