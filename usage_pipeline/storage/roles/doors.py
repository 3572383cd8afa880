"""What PostgreSQL lets everybody do is closed, as far as the user who migrates may close it; the log names what stays open.

One session that takes advisory locks stops drains, and thousands of locks stop the whole server. Large objects, temporary
tables and messages in the WAL fill its disk. Only a superuser may close functions of PostgreSQL.
"""

import logging

import psycopg

from usage_pipeline.storage.postgres import first_line
from usage_pipeline.storage.roles.analyst import ANALYST_ROLE
from usage_pipeline.storage.sql import load

log = logging.getLogger(__name__)

_SHOWN = 3


def close_doors(connection: psycopg.Connection, roles: list[str]) -> list[str]:
    """Closes them to all but `roles`, and returns what is still wrong, a line each. The log has the same as warnings.

    On an autocommit connection. Roles that are not there are passed over.
    """
    # In one transaction: nobody of ours is shut out in between. And doors first, since behind an open one no key is missing.
    with connection.transaction():
        left = _settled(connection, "storage/roles/select_open_doors", {})
        missing = _settled(connection, "storage/roles/select_missing_keys", {"roles": roles})
    faults = []
    if left:
        more = f" and {len(left) - _SHOWN} more" if len(left) > _SHOWN else ""
        faults.append(
            f"everybody who may connect to this database can stop the pipeline or fill the disk by {', '.join(left[:_SHOWN])}"
            f"{more}, and {_user(connection)} may not close that; let an administrator run what docs/analysts.md has under "
            '"Close the doors first"'
        )
    faults += [f"{fault}; let an administrator grant it" for fault in missing]
    loose = connection.execute(load("storage/roles/select_loose_analysts"), {"role": ANALYST_ROLE})
    faults += [f"the analyst {name} {fault} (docs/analysts.md)" for name, fault in loose]
    for fault in faults:
        log.warning("roles: %s", fault)
    return faults


def _settled(connection: psycopg.Connection, query: str, arguments: dict[str, list[str]]) -> list[str]:
    """Runs the statements that a query names, and returns what it still finds then."""
    for what, statement in connection.execute(load(query), arguments).fetchall():
        try:
            with connection.transaction():
                connection.execute(statement)
        except psycopg.errors.InsufficientPrivilege as error:
            log.debug("roles: %s: %s", what, first_line(error))
    left = connection.execute(load(query), arguments).fetchall()
    return list(dict.fromkeys(what for what, _ in left))


def _user(connection: psycopg.Connection) -> str:
    [(user,)] = connection.execute("select current_user").fetchall()
    return str(user)
