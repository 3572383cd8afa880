"""Lets people in (contracts §14): by a link that is good once and for a day, or because a proxy names them.

For each of them there is a token whose secret nobody has: `tokens list` shows it, and `tokens revoke` ends what it opened.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256

import psycopg

from usage_pipeline.access.tokens import NewToken, create_token, revoke_token
from usage_pipeline.bindings import Bounds
from usage_pipeline.storage.sql import load
from usage_pipeline.values import Malformed

# Of a cookie nothing is written, so the other scopes would open nothing.
SCOPES = ("read", "users", "prompts")
DEFAULT_SCOPES = ("read", "users")
SESSION_DAYS = 30
INVITATION_HOURS = 24
# Of invitations that were used or are over: whoever tries one hears so for so long.
_KEPT_DAYS = 30


@dataclass(frozen=True, slots=True)
class Person:
    """Who is let in: the name, what may be seen, and until when. `expires_at` None: until it is revoked."""

    name: str
    scopes: Sequence[str] = DEFAULT_SCOPES
    bounds: Bounds = field(default_factory=Bounds)
    expires_at: datetime | None = None

    def __post_init__(self) -> None:
        if not set(self.scopes) <= set(SCOPES):
            came = ", ".join(self.scopes)
            raise Malformed(
                f"--scope: expected one or more of {', '.join(SCOPES)}, since people only read, came {came}"
            )
        if "read" not in self.scopes:
            raise Malformed(f"--scope: expected read, and others beside it, came {', '.join(self.scopes) or 'none'}")


@dataclass(frozen=True, slots=True)
class Invitation:
    """An invitation that was just made. `code` is shown once and stored nowhere."""

    token_id: str
    token_prefix: str
    expires_at: datetime
    code: str = field(repr=False)


def invite(connection: psycopg.Connection, person: Person) -> Invitation:
    """Makes an invitation on an autocommit connection. Raises Malformed for a wrong name."""
    expires_at = person.expires_at or datetime.now(UTC) + timedelta(days=SESSION_DAYS)
    code = f"upi_{secrets.token_urlsafe(32)}"
    with connection.transaction():
        connection.execute(
            "delete from usage.invitations where expires_at < now() - make_interval(days => %s)", (_KEPT_DAYS,)
        )
        made = _token(connection, person, expires_at, "invite")
        row = {
            "invitation_hash": sha256(code.encode()).hexdigest(),
            "token_id": made.token_id,
            "hours": INVITATION_HOURS,
        }
        [(good_until,)] = connection.execute(load("access/insert_invitation"), row).fetchall()
    return Invitation(made.token_id, made.token_prefix, min(good_until, expires_at), code)


def let_in_by_proxy(connection: psycopg.Connection, person: Person) -> NewToken:
    """Lets in whom a proxy names so, on an autocommit connection, in place of what was said before of that name.

    Raises Malformed for a name that no header can say.
    """
    name = person.name
    # A proxy may put two headers into one, with a comma.
    if name != name.strip() or not name.isprintable() or "," in name:
        raise Malformed("NAME: expected a name as a header says it, without a comma or spaces around it, came another")
    with connection.transaction():
        connection.execute("select pg_advisory_xact_lock(hashtext('people'), hashtext(%s))", (name,))
        before = connection.execute(load("access/select_person"), {"name": name}).fetchone()
        if before is not None:
            revoke_token(connection, before[0])
        return _token(connection, person, person.expires_at, "proxy")


def _token(connection: psycopg.Connection, person: Person, expires_at: datetime | None, sign_in: str) -> NewToken:
    """A token for a person. Its secret is forgotten here."""
    return create_token(
        connection, person.name, person.scopes, expires_at=expires_at, bounds=person.bounds, sign_in=sign_in
    )
