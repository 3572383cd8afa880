"""Connections to PostgreSQL, and what their errors say."""

import psycopg

from usage_pipeline.settings import Settings

APPLICATION_NAME = "usage_pipeline"
# Whoever holds a lock for longer is stuck: its run has failed, and so should those that wait for it.
_LOCK_MINUTES = 5


class PostgresUnavailable(Exception):
    """PostgreSQL does not answer; nothing was changed. The message is one line without secrets."""


def connect(settings: Settings, *, statement_seconds: int = 0) -> psycopg.Connection:
    """A new autocommit connection with the session time zone UTC; the caller closes it.

    A lock is waited for at most five minutes, a statement takes at most `statement_seconds` (0: as long as the server lets it).

    Raises PostgresUnavailable when no server that can be written to is reached within `connect_timeout_seconds`, or the
    URL cannot be read.
    """
    # Without one, what an administrator has set for the role stays.
    limit = f" -c statement_timeout={statement_seconds}s" if statement_seconds else ""
    try:
        return psycopg.connect(
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
