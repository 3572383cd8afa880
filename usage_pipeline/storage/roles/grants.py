"""Grants of a database, set after each migration: who may do what in it, and that nobody else may stop it."""

import psycopg

from usage_pipeline.storage.roles.analyst import ensure_analyst_role
from usage_pipeline.storage.roles.doors import close_doors


def set_grants(connection: psycopg.Connection) -> None:
    """Gives each role what it needs, those of its tables that a migration has just made too. On an autocommit connection.

    What the user who migrates may not do himself is in the log, with what an administrator must run.
    """
    ensure_analyst_role(connection)
    [(owner,)] = connection.execute("select current_user").fetchall()
    close_doors(connection, [owner])
