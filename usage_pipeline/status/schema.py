"""The version of the schema in the database, beside the newest one that this installation knows."""

from contextlib import closing
from dataclasses import dataclass, replace

import psycopg

from usage_pipeline.settings import Settings
from usage_pipeline.storage.connecting.database import Database
from usage_pipeline.storage.postgres import PostgresUnavailable, connect_to
from usage_pipeline.storage.schema_version import stored_version
from usage_pipeline.storage.sql import sql_folder

# A look after another error must not take long.
_LOOK_SECONDS = 3.0
_MIGRATE = "run: usage-pipeline migrate"


@dataclass(frozen=True, slots=True)
class SchemaVersion:
    """`stored` is None where the database has no schema of ours."""

    stored: str | None
    newest: str

    @property
    def fault(self) -> str | None:
        """What is wrong with it and what to do, in one sentence; None when it is that of this installation."""
        if self.stored == self.newest:
            return None
        if self.stored is None:
            return f"the database is not migrated: it has no schema of usage_pipeline; {_MIGRATE}"
        if self.stored in _known_versions():
            return f"the schema is at version {self.stored}, and this usage-pipeline needs {self.newest}; {_MIGRATE}"
        return (
            f"the schema is at version {self.stored}, which this usage-pipeline does not know: its newest is {self.newest}; "
            "install the usage-pipeline that migrated the database"
        )


def schema_version(connection: psycopg.Connection) -> SchemaVersion:
    return SchemaVersion(stored_version(connection), max(_known_versions()))


def schema_fault(settings: Settings) -> str | None:
    """The fault of the schema, by a connection of its own. None also when PostgreSQL does not answer."""
    try:
        database = replace(Database.of_usage(settings), timeout_seconds=_LOOK_SECONDS)
        with closing(connect_to(database, statement_seconds=_LOOK_SECONDS)) as connection:
            return schema_version(connection).fault
    except (PostgresUnavailable, psycopg.Error):
        return None


def _known_versions() -> frozenset[str]:
    return frozenset(path.name.partition("_")[0] for path in (sql_folder() / "migrations" / "versions").glob("*.py"))
