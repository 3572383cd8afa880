"""A database at an earlier version of the schema, which the code of today can fill as that version did."""

import psycopg

from usage_pipeline.storage.sql import sql_folder

_MAKES_PARTITIONS = "migrations/versions/0019_roles_of_processes.sql"


def let_code_make_partitions(connection: psycopg.Connection) -> None:
    """The function that makes partitions since 0019, which that migration then replaces by itself."""
    text = (sql_folder() / _MAKES_PARTITIONS).read_text(encoding="utf-8")
    # As the driver of migrations reads it.
    connection.execute(text.partition("revoke execute")[0].replace("%%", "%").encode())
