"""What a session of ours relies on, whatever the server, the database, the role or a pooler has set: set it, and check it.

After connecting and not in the start-up packet, since poolers refuse or drop what they do not know there.
"""

import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import psycopg
from psycopg.rows import TupleRow

# The isolation level, since a lock is often taken before the look that it protects; the zone, in which bounds of partitions are
# read; the encoding, since COPY gets bytes; how dates, intervals, bytes and numbers are written, which psycopg and our
# statements read; how texts, arrays and names are read and written in SQL; and commits that are durable, since what is
# committed is deleted from Redis. Nothing relies on search_path: all names are qualified.
_SETTINGS = {
    "default_transaction_isolation": "read committed",
    "timezone": "UTC",
    "client_encoding": "UTF8",
    "datestyle": "ISO, YMD",
    "intervalstyle": "postgres",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "standard_conforming_strings": "on",
    "array_nulls": "on",
    "transform_null_equals": "off",
    "quote_all_identifiers": "off",
    "synchronous_commit": "on",
}
# Nobody else sets it: who finds it set has a server that another session of ours uses, or has left as it was.
_MARK = "usage_pipeline.session"


class SharedSession(psycopg.OperationalError):
    """A pooler gives servers to several sessions at once. The message is one line that says what to change."""

    def __init__(self) -> None:
        super().__init__(
            "expected a session of our own, came a pooler that gives the same server to several: settings and locks would not "
            "hold. Set pool_mode = session for this database in PgBouncer, or connect to PostgreSQL itself"
        )


@dataclass(frozen=True, slots=True)
class Session:
    """A session that has begun: the process id of its server, what it was set to there, and whether a pooler is in between."""

    server_pid: int
    set_to: Mapping[str, str]
    is_pooled: bool


def wanted(*, lock_seconds: float = 0, statement_seconds: float = 0) -> dict[str, list[str]]:
    """The arguments of `storage/set_session`. Limits of 0 stay as the server has them."""
    limits = {"lock_timeout": lock_seconds, "statement_timeout": statement_seconds}
    values = {name: milliseconds(seconds) for name, seconds in limits.items() if seconds}
    settings = _SETTINGS | values | {_MARK: secrets.token_hex(8)}
    return {"names": list(settings), "values": list(settings.values())}


def begun(rows: Iterable[TupleRow], backend_pid: int) -> Session:
    """The session of these rows of `storage/set_session`; `backend_pid` is what was said when it was connected.

    A pooler cannot say the right one there, since it does not know yet which server it will give. Raises SharedSession.
    """
    found = list(rows)
    pids, marks_before = {pid for _, _, pid, _ in found}, {mark for *_, mark in found}
    if len(pids) != 1 or marks_before - {None, ""}:
        raise SharedSession
    [pid] = pids
    return Session(pid, {name: value for name, value, _, _ in found}, is_pooled=pid != backend_pid)


def expect_held(session: Session, rows: Iterable[TupleRow]) -> None:
    """Compares with rows of `storage/select_session`. Raises psycopg.OperationalError when a setting does not hold."""
    for name, came, pid in rows:
        if pid != session.server_pid:
            raise SharedSession
        if came != session.set_to[name]:
            raise psycopg.OperationalError(
                f"expected the session to keep {name} = {session.set_to[name]}, came {came}; does a pooler change it?"
            )


def expect_own_server(session: Session, pids_of_another: Iterable[int]) -> None:
    """`pids_of_another` are the servers of a second session, statement by statement. Raises SharedSession.

    In session mode it has one server, which is not ours. In the other modes it is given any server that is idle, as ours is.
    """
    pids = set(pids_of_another)
    if session.server_pid in pids or len(pids) > 1:
        raise SharedSession


def milliseconds(seconds: float) -> str:
    """A time-out as PostgreSQL writes it. Never 0, which would be no limit at all."""
    return f"{max(1, round(seconds * 1000))}ms"
