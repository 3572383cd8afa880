"""Grants of a database, set after each migration: who may do what in it, and that nobody else may stop it.

The roles of processes are a choice: where the server has none of them, everything works as the owner of the database.
"""

import psycopg

from usage_pipeline.storage.roles.analyst import ensure_analyst_role, has_role
from usage_pipeline.storage.roles.doors import close_doors
from usage_pipeline.storage.sql import load

# The HTTP service, drains and merchants' aggregations. What each may do is in sql/storage/roles/grant_*.sql.
API_ROLE = "usage_api"
DRAIN_ROLE = "usage_drain"
_GRANTS = {API_ROLE: "storage/roles/grant_api", DRAIN_ROLE: "storage/roles/grant_drain"}


def set_grants(connection: psycopg.Connection) -> None:
    """Gives each role what it needs, those of its tables that a migration has just made too. On an autocommit connection.

    What the user who migrates may not do himself is in the log, with what an administrator must run.
    """
    ensure_analyst_role(connection)
    for role, grants in _GRANTS.items():
        if has_role(connection, role):
            with connection.transaction():
                connection.execute(load(grants))
    [(owner,)] = connection.execute("select current_user").fetchall()
    close_doors(connection, [owner, *_GRANTS])
