"""Which migrations a database has, in a table of our own: `alembic_version` is that of Dagster's storage, if both share one."""

import logging
import re
from contextlib import suppress

import psycopg
from sqlalchemy import Connection, text

from usage_pipeline.storage.sql import load

log = logging.getLogger(__name__)

VERSION_SCHEMA, VERSION_TABLE = "public", "usage_pipeline_version"
# Dagster's are twelve hexadecimal digits.
_OUR_VERSION = re.compile(r"[0-9]{4}")


def take_over_version_table(connection: Connection) -> None:
    """Renames the table that our migrations had before version 0040 of the schema, if it is ours. Commits nothing."""
    [(may_be_ours,)] = connection.execute(text(load("storage/select_version_tables"))).fetchall()
    if not may_be_ours:
        return
    versions = [version for (version,) in connection.execute(text("select version_num from public.alembic_version"))]
    if versions and all(map(_OUR_VERSION.fullmatch, versions)):
        connection.exec_driver_sql(load("storage/rename_version_table"))
        log.info("storage: public.alembic_version was ours, and is now %s.%s", VERSION_SCHEMA, VERSION_TABLE)


def stored_version(connection: psycopg.Connection) -> str | None:
    """The version of our schema in the database; None where it has none."""
    with suppress(psycopg.errors.UndefinedTable):
        return _only(connection, "select version_num from public.usage_pipeline_version")
    # Until the next `migrate` renames it.
    with suppress(psycopg.errors.UndefinedTable):
        found = _only(connection, "select version_num from public.alembic_version")
        return found if found and _OUR_VERSION.fullmatch(found) else None
    return None


def _only(connection: psycopg.Connection, query: str) -> str | None:
    row = connection.execute(query).fetchone()
    return None if row is None else str(row[0])


def is_migrated(connection: psycopg.Connection) -> bool:
    """Whether the database has our schema, of whatever version. A table `alembic_version` may be anybody's."""
    query = f"select to_regclass('{VERSION_SCHEMA}.{VERSION_TABLE}'), to_regclass('ops.sync_batches')"
    [tables] = connection.execute(query).fetchall()
    return any(table is not None for table in tables)
