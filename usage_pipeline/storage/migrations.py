"""Brings the schema to the newest version. Forward only; safe to run twice, and from two processes at once."""

import logging
import time
from datetime import UTC, datetime
from functools import partial

import psycopg
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.util import CommandError
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.exc import DBAPIError

from usage_pipeline.storage.catalog import SCHEMAS
from usage_pipeline.storage.chunks.partitions import ensure_partitions_ahead
from usage_pipeline.storage.connecting.database import Database
from usage_pipeline.storage.postgres import PostgresUnavailable, connect_to, first_line
from usage_pipeline.storage.roles.analyst import end_long_transactions
from usage_pipeline.storage.roles.grants import set_grants
from usage_pipeline.storage.schema_version import VERSION_SCHEMA, VERSION_TABLE
from usage_pipeline.storage.servers.supported import NEWEST_POSTGRES, is_untried_postgres
from usage_pipeline.storage.sql import load, sql_folder
from usage_pipeline.storage.time_zones import expect_same_zone, expect_time_zone
from usage_pipeline.storage.timescale import offer_extension

# Any number will do, as long as nothing else in the database locks the same one.
_MIGRATION_LOCK = 7_120_001
_CONNECT_SECONDS = 10.0
# Whoever wants to use a table waits behind a migration that waits for it. So it waits shortly, and lets others pass in between.
_LOCK_SECONDS = 3.0
_PAUSE_SECONDS = 5.0
_TRIES = 40

log = logging.getLogger(__name__)


def migrate(database: Database | str, *, time_zone: str | None = None) -> str:
    """Applies the missing migrations of `sql/migrations`, creates partitions ahead, and returns the schema's version.

    `time_zone` is USAGE_TIMEZONE, which views also need. None keeps the stored one (UTC in a new database).
    A second process waits until the first has finished, and then finds nothing to do.
    Raises PostgresUnavailable when the server does not answer or others hold their locks, TimeZoneRefused when it has other
    clocks for the zone than Python, or when days are stored in another zone.
    """
    url = database if isinstance(database, str) else database.url
    password = None if isinstance(database, str) else database.password
    database = Database(url, _CONNECT_SECONDS, password)
    config = Config()
    config.set_main_option("script_location", str(sql_folder() / "migrations"))
    # What alembic wants is an engine of SQLAlchemy; its connections are ours.
    pool = create_engine("postgresql+psycopg://", creator=partial(_transactional, database), pool_size=1)
    try:
        with pool.connect() as connection:
            connection.execute(text("select pg_advisory_lock(:lock)"), {"lock": _MIGRATION_LOCK})
            connection.commit()
            try:
                # On a connection of its own: the extension is loaded once a session begins.
                with connect_to(database) as single:
                    if is_untried_postgres(single.info.server_version):
                        log.info(
                            "migrate: this PostgreSQL is newer than %d, the newest that was tried", NEWEST_POSTGRES
                        )
                    if time_zone is not None:
                        expect_same_zone(single, time_zone, today=datetime.now(UTC).date())
                    offer_extension(single)
                _upgrade(config, connection, database)
                versions = {"version_table": VERSION_TABLE, "version_table_schema": VERSION_SCHEMA}
                version = MigrationContext.configure(connection, opts=versions).get_current_revision()
                connection.commit()
                with connect_to(database) as single:
                    set_grants(single)
                    if time_zone is not None:
                        _note_time_zone(single, time_zone)
            finally:
                connection.rollback()
                connection.execute(text("select pg_advisory_unlock(:lock)"), {"lock": _MIGRATION_LOCK})
                connection.commit()
    finally:
        pool.dispose()
    with connect_to(database) as single:
        ensure_partitions_ahead(single)
    return version or "none"


def _upgrade(config: Config, connection: Connection, database: Database) -> None:
    """Applies the missing migrations, each in a transaction. One that does not get its locks is tried again from its start."""
    config.attributes["connection"] = connection
    set_limit = text("select set_config('lock_timeout', :limit, false)")
    connection.execute(set_limit, {"limit": f"{_LOCK_SECONDS:.0f}s"})
    connection.commit()
    for _ in range(_TRIES):
        try:
            command.upgrade(config, "head")
            return
        except CommandError as error:
            connection.rollback()
            raise PostgresUnavailable(
                f"the schema of the database has a version that this usage-pipeline does not know ({first_line(error)}); "
                "it is of a newer usage-pipeline: install that one"
            ) from None
        except DBAPIError as error:
            connection.rollback()
            if isinstance(error.orig, psycopg.errors.InsufficientPrivilege):
                raise error.orig from None
            if not isinstance(error.orig, psycopg.errors.LockNotAvailable | psycopg.errors.DeadlockDetected):
                raise
        with connect_to(database) as single:
            end_long_transactions(single)
            holders = single.execute(load("storage/select_lock_holders"), {"schemas": [*SCHEMAS, "public"]}).fetchall()
        named = ", ".join(f"pid {pid} ({name})" for pid, name in holders) or "none any more"
        log.info("migrate: waits for sessions that hold our tables: %s", named)
        time.sleep(_PAUSE_SECONDS)
    raise PostgresUnavailable(
        f"a migration did not get its locks in {_TRIES} tries, and is undone; sessions that hold our tables: {named}; "
        "end them (select pg_terminate_backend(pid)) or wait, then run: usage-pipeline migrate"
    )


def _note_time_zone(connection: psycopg.Connection, time_zone: str) -> None:
    [(has_days,)] = connection.execute(load("storage/has_days")).fetchall()
    if has_days:
        expect_time_zone(connection, time_zone)
    connection.execute(load("storage/update_calendar"), {"time_zone": time_zone})


def _transactional(database: Database) -> psycopg.Connection:
    connection = connect_to(database)
    # A migration takes as long as it takes, and so does the one that it waits for.
    connection.execute(load("storage/lift_limits"))
    connection.autocommit = False
    return connection
