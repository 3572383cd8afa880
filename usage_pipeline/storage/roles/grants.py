"""Grants of a database, set after each migration: who may do what in it, and that nobody else may stop it.

The roles of processes are a choice: where the server has none of them, everything works as the owner of the database.
"""

import time

import psycopg

from usage_pipeline.storage.roles.analyst import ensure_analyst_role, has_role
from usage_pipeline.storage.roles.doors import close_doors
from usage_pipeline.storage.sql import load

# The HTTP service, drains and merchants' aggregations. What each may do is in sql/storage/roles/grant_*.sql.
API_ROLE = "usage_api"
DRAIN_ROLE = "usage_drain"
_TRIES = 20
_PAUSE_SECONDS = 0.2
_GRANTS = {API_ROLE: "storage/roles/grant_api", DRAIN_ROLE: "storage/roles/grant_drain"}


def set_grants(connection: psycopg.Connection) -> None:
    """Gives each role what it needs, those of its tables that a migration has just made too. On an autocommit connection.

    What the user who migrates may not do himself is in the log, with what an administrator must run.
    """
    ensure_analyst_role(connection)
    for role, grants in _GRANTS.items():
        if has_role(connection, role):
            _grant(connection, grants)
    [(owner,)] = connection.execute("select current_user").fetchall()
    close_doors(connection, [owner, *_GRANTS])


def _grant(connection: psycopg.Connection, grants: str) -> None:
    """Grants, again while somebody attaches a partition to one of the tables: PostgreSQL has no lock for that, and says so."""
    for _ in range(_TRIES - 1):
        try:
            with connection.transaction():
                connection.execute(load(grants))
            return
        except psycopg.errors.InternalError_:
            # "tuple concurrently updated", in the language of the server; it has no code of its own.
            time.sleep(_PAUSE_SECONDS)
    with connection.transaction():
        connection.execute(load(grants))
