"""The role usage_analyst, which may read the views of `reporting` and nothing else.

A role belongs to the server, its grants belong to a database. So both are set after each migration.
"""

import logging
from contextlib import suppress

import psycopg

from usage_pipeline.storage.postgres import first_line
from usage_pipeline.storage.sql import load

log = logging.getLogger(__name__)

ANALYST_ROLE = "usage_analyst"
# An analyst may raise each time-out in his own session. Nobody needs a transaction for longer than this.
LONGEST_TRANSACTION_SECONDS = 900.0


def ensure_analyst_role(connection: psycopg.Connection) -> bool:
    """Makes the role if it is missing, and grants it the views, on an autocommit connection. False if the role is missing.

    The user who migrates may not be allowed to make roles. Then the log says what an administrator must run, and the next
    migration grants the views.
    """
    if not has_role(connection, ANALYST_ROLE):
        # Other databases of the server may be migrated at this moment: whoever is first makes it.
        with suppress(psycopg.errors.DuplicateObject, psycopg.errors.UniqueViolation):
            try:
                connection.execute(f"create role {ANALYST_ROLE} nologin")
            except psycopg.errors.InsufficientPrivilege as error:
                log.warning(
                    "analysts: nobody can read the views of reporting yet, since the role %s is missing (%s); let an "
                    "administrator run `create role %s nologin`, then run `usage-pipeline migrate` again",
                    ANALYST_ROLE,
                    first_line(error),
                    ANALYST_ROLE,
                )
                return False
    with connection.transaction():
        connection.execute(load("storage/roles/grant_analyst"))
    return True


def end_long_transactions(connection: psycopg.Connection) -> None:
    """Ends sessions of analysts whose transaction is too long, as far as this user may. The log names whom it ended.

    What such a transaction has read cannot be dropped or altered, by whomever.
    """
    arguments = {"role": ANALYST_ROLE, "seconds": LONGEST_TRANSACTION_SECONDS}
    for pid, name, _ in connection.execute(load("storage/roles/end_long_transactions"), arguments).fetchall():
        log.warning(
            "analysts: ended the session of %s (pid %d): its transaction was open for more than %.0f minutes",
            name,
            pid,
            LONGEST_TRANSACTION_SECONDS / 60,
        )


def has_role(connection: psycopg.Connection, name: str) -> bool:
    """Whether the server has this role."""
    return connection.execute("select from pg_roles where rolname = %s", (name,)).fetchone() is not None
