"""Whether the server has TimescaleDB, and whether a database began with it."""

import logging

import psycopg

from usage_pipeline.storage import schema_version
from usage_pipeline.storage.postgres import first_line

log = logging.getLogger(__name__)


def offer_extension(connection: psycopg.Connection) -> None:
    """Creates the extension in a database without our schema, if the server has it preloaded. The log says what it did.

    A database that began with native partitions keeps them: otherwise its partitions and files would have to move.
    """
    if is_installed(connection) or not _is_preloaded(connection):
        return
    if _is_migrated(connection):
        log.info("storage: TimescaleDB is there, but this database began with native partitions, and keeps them")
        return
    try:
        connection.execute("create extension if not exists timescaledb")
    except psycopg.Error as error:
        log.warning(
            "storage: TimescaleDB is there, but cannot be created (%s); the tables get native partitions",
            first_line(error),
        )


def is_installed(connection: psycopg.Connection) -> bool:
    """Whether this database has the extension."""
    return connection.execute("select from pg_extension where extname = 'timescaledb'").fetchone() is not None


def is_hypertable(connection: psycopg.Connection, table: str) -> bool:
    """Whether `table` (schema.name) is a hypertable. False without the extension."""
    if not is_installed(connection):
        return False
    schema, _, name = table.partition(".")
    query = "select from timescaledb_information.hypertables where hypertable_schema = %s and hypertable_name = %s"
    return connection.execute(query, (schema, name)).fetchone() is not None


def _is_preloaded(connection: psycopg.Connection) -> bool:
    """Whether the server has preloaded the extension. If not, it cannot be created, and some versions end the session."""
    available = "select from pg_available_extensions where name = 'timescaledb'"
    # No row for who may not read it: then an administrator makes the extension, or storage is native.
    preloaded = connection.execute("select setting from pg_settings where name = 'shared_preload_libraries'").fetchone()
    is_named = preloaded is not None and "timescaledb" in preloaded[0]
    return is_named and connection.execute(available).fetchone() is not None


def _is_migrated(connection: psycopg.Connection) -> bool:
    return schema_version.is_migrated(connection)
