"""Whether the server has a TimescaleDB that fits, and whether a database began with it."""

import logging
import re
from typing import NamedTuple

import psycopg

from usage_pipeline.storage import schema_version
from usage_pipeline.storage.postgres import first_line
from usage_pipeline.storage.sql import load

# Contracts, 13. Older ones lack `by_range` or parts of the views that the lifecycle reads.
_OLDEST = (2, 14)
log = logging.getLogger(__name__)


def offer_extension(connection: psycopg.Connection) -> None:
    """Creates the extension in a database without our schema, if the server has it preloaded. The log says what it did.

    A database that began with native partitions keeps them: otherwise its partitions and files would have to move.
    """
    found = _found(connection)
    if found.installed or found.offered is None or not _is_preloaded(connection):
        return
    if _is_migrated(connection):
        log.info("storage: TimescaleDB is there, but this database began with native partitions, and keeps them")
        return
    if unfit(found.offered, found.license):
        return
    try:
        connection.execute("create extension if not exists timescaledb")
    except psycopg.Error as error:
        log.warning(
            "storage: TimescaleDB is there, but cannot be created (%s); the tables get native partitions",
            first_line(error),
        )


def unfit(version: str, license_: str | None) -> str | None:
    """Why hypertables cannot be compressed and rolled up by this TimescaleDB, as the end of a sentence; None: they can.

    `license_` is its setting `timescaledb.license`: `timescale`, `apache`, or None where nobody set it.
    """
    if tuple(int(part) for part in re.findall(r"\d+", version)[:2]) < _OLDEST:
        return f"TimescaleDB {version} is older than {'.'.join(map(str, _OLDEST))}"
    if license_ == "apache":
        return (
            f"TimescaleDB {version} is under the Apache licence here, without compression and continuous aggregates"
            " (timescaledb.license)"
        )
    return None


def why_native(connection: psycopg.Connection) -> str | None:
    """Why a new database gets native partitions, as the end of a sentence; None: its events can be hypertables."""
    found = _found(connection)
    version = found.installed or found.offered
    if why := version and unfit(version, found.license):
        return why
    return None if found.installed else "this database does not have TimescaleDB"


def is_hypertable(connection: psycopg.Connection, table: str) -> bool:
    """Whether `table` (schema.name) is a hypertable. False without the extension."""
    if _found(connection).installed is None:
        return False
    schema, _, name = table.partition(".")
    query = "select from timescaledb_information.hypertables where hypertable_schema = %s and hypertable_name = %s"
    return connection.execute(query, (schema, name)).fetchone() is not None


class _Found(NamedTuple):
    installed: str | None
    offered: str | None
    license: str | None


def _found(connection: psycopg.Connection) -> _Found:
    [row] = connection.execute(load("storage/select_timescale")).fetchall()
    return _Found(*row)


def _is_preloaded(connection: psycopg.Connection) -> bool:
    """Whether the server has preloaded the extension. If not, it cannot be created, and some versions end the session."""
    # No row for who may not read it: then an administrator makes the extension, or storage is native.
    preloaded = connection.execute("select setting from pg_settings where name = 'shared_preload_libraries'").fetchone()
    return preloaded is not None and "timescaledb" in preloaded[0]


def _is_migrated(connection: psycopg.Connection) -> bool:
    return schema_version.is_migrated(connection)
