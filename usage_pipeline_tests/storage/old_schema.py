"""A database at an earlier version of the schema, as somebody has it who has not run `migrate` since an upgrade."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from psycopg import sql
from sqlalchemy import create_engine, make_url

from usage_pipeline.local.servers.postgres import RunningPostgres, create_database
from usage_pipeline.storage.sql import sql_folder

# The table of versions had this name until 0040.
OLD_NAME_OF_VERSIONS = """
    alter table public.usage_pipeline_version rename to alembic_version;
    alter table public.alembic_version rename constraint usage_pipeline_version_pkc to alembic_version_pkc;
"""
_RENAMED_BEFORE = "0040"
_MAKES_PARTITIONS = "migrations/versions/0019_roles_of_processes.sql"


@contextmanager
def old_database(server: RunningPostgres, version: str) -> Iterator[str]:
    """The URL of a database at `version`, until the end of the block."""
    name = f"old_{uuid.uuid4().hex}"
    create_database(server, name)
    try:
        migrate_up_to(server.url(name), version)
        yield server.url(name)
    finally:
        with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
            connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


def before(version: str) -> str:
    """The version that a migration starts from."""
    found = ScriptDirectory.from_config(_config()).get_revision(version).down_revision
    assert isinstance(found, str)
    return found


def migrate_up_to(url: str, version: str) -> None:
    """Brings an empty database to `version`, and to the name that the table of versions had then."""
    engine = create_engine(make_url(url).set(drivername="postgresql+psycopg"))
    with engine.connect() as connection:
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, version)
        connection.commit()
    engine.dispose()
    if version < _RENAMED_BEFORE:
        with psycopg.connect(url, autocommit=True) as postgres:
            postgres.execute(OLD_NAME_OF_VERSIONS)


def let_code_make_partitions(connection: psycopg.Connection) -> None:
    """The function that makes partitions since 0019, which that migration then replaces by itself."""
    text = (sql_folder() / _MAKES_PARTITIONS).read_text(encoding="utf-8")
    # As the driver of migrations reads it.
    connection.execute(text.partition("revoke execute")[0].replace("%%", "%").encode())


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(sql_folder() / "migrations"))
    return config
