"""Connections to PostgreSQL: one pool per process for short work, and single connections for the drain."""

import psycopg
from sqlalchemy import Engine, create_engine
from sqlalchemy.engine import make_url

from usage_pipeline.settings import Settings

APPLICATION_NAME = "usage_pipeline"


class PostgresUnavailable(Exception):
    """PostgreSQL does not answer; nothing was changed. The message is one line without secrets."""


def connect(settings: Settings) -> psycopg.Connection:
    """A new autocommit connection with the session time zone UTC; the caller closes it.

    Raises PostgresUnavailable when no server that can be written to is reached within `connect_timeout_seconds`, or the
    URL cannot be read.
    """
    try:
        return psycopg.connect(
            settings.database_url.get_secret_value(),
            autocommit=True,
            connect_timeout=max(2, round(settings.connect_timeout_seconds)),
            application_name=APPLICATION_NAME,
            options="-c timezone=UTC",
            keepalives_idle=30,
            # A standby answers too, but stores nothing: what is claimed would only wait.
            target_session_attrs="read-write",
        )
    except (psycopg.OperationalError, psycopg.ProgrammingError) as error:
        raise PostgresUnavailable(f"PostgreSQL does not answer: {first_line(error)}") from None


def engine(database_url: str, pool_size: int = 10) -> Engine:
    """A pool of `pool_size` connections through psycopg 3; checks a connection before use."""
    url = make_url(database_url).set(drivername="postgresql+psycopg")
    return create_engine(
        url, pool_size=pool_size, pool_pre_ping=True, connect_args={"application_name": APPLICATION_NAME}
    )


def first_line(error: BaseException) -> str:
    """What an error says, cut to one line for a log."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
