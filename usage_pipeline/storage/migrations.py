"""Brings the schema to the newest version. Forward only; safe to run twice, and from two processes at once."""

from datetime import UTC, datetime
from functools import partial

import psycopg
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine, text

from usage_pipeline.storage.chunks.partitions import ensure_partitions_ahead
from usage_pipeline.storage.postgres import connect_to
from usage_pipeline.storage.roles.grants import set_grants
from usage_pipeline.storage.sql import load, sql_folder
from usage_pipeline.storage.time_zones import expect_same_zone, expect_time_zone
from usage_pipeline.storage.timescale import offer_extension

# Any number will do, as long as nothing else in the database locks the same one.
_MIGRATION_LOCK = 7_120_001
_CONNECT_SECONDS = 10.0


def migrate(database_url: str, *, time_zone: str | None = None) -> str:
    """Applies the missing migrations of `sql/migrations`, creates partitions ahead, and returns the schema's version.

    `time_zone` is USAGE_TIMEZONE, which views also need. None keeps the stored one (UTC in a new database).
    A second process waits until the first has finished, and then finds nothing to do.
    Raises PostgresUnavailable when the server does not answer, TimeZoneRefused when it has other
    clocks for the zone than Python, or when days are stored in another zone.
    """
    config = Config()
    config.set_main_option("script_location", str(sql_folder() / "migrations"))
    # What alembic wants is an engine of SQLAlchemy; its connections are ours.
    pool = create_engine("postgresql+psycopg://", creator=partial(_transactional, database_url), pool_size=1)
    try:
        with pool.connect() as connection:
            connection.execute(text("select pg_advisory_lock(:lock)"), {"lock": _MIGRATION_LOCK})
            connection.commit()
            try:
                # On a connection of its own: the extension is loaded once a session begins.
                with _connect(database_url) as single:
                    if time_zone is not None:
                        expect_same_zone(single, time_zone, today=datetime.now(UTC).date())
                    offer_extension(single)
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
                version = MigrationContext.configure(connection).get_current_revision()
                connection.commit()
                with _connect(database_url) as single:
                    set_grants(single)
                    if time_zone is not None:
                        _note_time_zone(single, time_zone)
            finally:
                connection.rollback()
                connection.execute(text("select pg_advisory_unlock(:lock)"), {"lock": _MIGRATION_LOCK})
                connection.commit()
    finally:
        pool.dispose()
    with _connect(database_url) as single:
        ensure_partitions_ahead(single)
    return version or "none"


def _note_time_zone(connection: psycopg.Connection, time_zone: str) -> None:
    [(has_days,)] = connection.execute(load("storage/has_days")).fetchall()
    if has_days:
        expect_time_zone(connection, time_zone)
    connection.execute(load("storage/update_calendar"), {"time_zone": time_zone})


def _connect(database_url: str) -> psycopg.Connection:
    return connect_to(database_url, timeout_seconds=_CONNECT_SECONDS)


def _transactional(database_url: str) -> psycopg.Connection:
    connection = _connect(database_url)
    connection.autocommit = False
    return connection
