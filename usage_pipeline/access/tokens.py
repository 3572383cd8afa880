"""API access tokens (contracts §2, §6) in PostgreSQL: makes, lists, revokes and finds them. The cache is in cache.py.

A token is `upt_<12 hex digits>_<43 characters>`. The part before the second `_` is its prefix, by which it is found.
Only the SHA-256 of the whole token is stored: its 256 random bits need no slow hash.
"""

import hmac
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from hashlib import sha256
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import psycopg

from usage_pipeline.bindings import Binding, Bounds
from usage_pipeline.storage.sql import load
from usage_pipeline.values import Malformed, identifier_text

# `users` and `prompts` are beside `read`: user ids and tags of explored usage and requests, and prompts of requests.
SCOPES = ("ingest", "read", "correct", "users", "prompts")
MAX_EXPIRES_IN_DAYS = 36_500
# What Redis's scripts count exactly.
MAX_QUOTA = 2**53 - 1
_SHAPE = re.compile(r"(upt_[0-9a-f]{12})_[A-Za-z0-9_-]{43}")
_DURATION = re.compile(r"([1-9][0-9]{0,5})([dh])")
_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class NewToken:
    """A token that was just made. `token` is shown once and stored nowhere."""

    token_id: str
    token_prefix: str
    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class AccessToken:
    """A stored token, without its secret."""

    token_id: str
    token_prefix: str
    token_hash: str = field(repr=False)
    name: str
    scopes: tuple[str, ...]
    expires_at: datetime | None
    revoked_at: datetime | None
    # Requests per day; without a default, so that a cached copy which does not say it is none.
    quota: int | None
    # So is this: a copy of a version that knew no bindings would be one of a token that is not bound.
    binding: Binding | None

    def is_valid_at(self, now: datetime) -> bool:
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)

    def is_hash_of(self, token: str) -> bool:
        """Whether `text` is the whole token. The comparison takes constant time."""
        return hmac.compare_digest(self.token_hash, _hash(token))


@dataclass(frozen=True, slots=True)
class ListedToken:
    """A token as `tokens list` shows it. `usage_count` counts the uses that are drained so far."""

    token_id: str
    token_prefix: str
    name: str
    scopes: list[str]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    quota: int | None
    usage_count: int
    last_used_at: datetime | None
    teams: list[str]
    services: list[str]
    users: list[str]
    # `invite` or `proxy`: how a person signs in with it. None: whoever has it sends it.
    sign_in: str | None

    @property
    def bounds(self) -> Bounds:
        return Bounds(tuple(self.teams), tuple(self.services), tuple(self.users))


class UnknownTokenError(Exception):
    """No token has this id or prefix. The message is one line."""


def prefix_of(token: str) -> str | None:
    """The prefix of a text that has the form of a token. None for any other text, which needs no look-up."""
    match = _SHAPE.fullmatch(token)
    return match and match[1]


def expiry_of(text: str, *, now: datetime, timezone: ZoneInfo) -> datetime:
    """When `90d` (days), `12h` (hours) or `2027-06-30` (the first moment of that day) is. Raises Malformed."""
    if match := _DURATION.fullmatch(text):
        count, unit = int(match[1]), match[2]
        found = now + (timedelta(hours=count) if unit == "h" else timedelta(days=count))
    else:
        try:
            day = date.fromisoformat(text)
            if day.isoformat() != text:
                raise ValueError  # 20270630, which Python reads too
            found = datetime.combine(day, time.min, timezone)
        except ValueError:
            raise Malformed(
                f"--expires: expected days or hours such as 90d or 12h, or a date YYYY-MM-DD, came {text!r}"
            ) from None
    if not now < found <= now + timedelta(days=MAX_EXPIRES_IN_DAYS):
        raise Malformed(
            f"--expires: expected a time to come, at most {MAX_EXPIRES_IN_DAYS} days from now, came {text!r}"
        )
    return found.astimezone(UTC)


def create_token(
    connection: psycopg.Connection,
    name: str,
    scopes: Sequence[str],
    *,
    expires_in_days: int | None = None,
    expires_at: datetime | None = None,
    quota: int | None = None,
    bounds: Bounds | None = None,
    sign_in: str | None = None,
) -> NewToken:
    """Makes and stores a token on an autocommit connection. `quota` is in requests per day; None: no limit.

    Without a number of days or a time it never ends. `bounds` are those of `Bounds.of`; tokens with the same ones share a
    binding. `sign_in`: how a person signs in with it, see invitations.py.

    Raises Malformed for a wrong name, scope, number of days or quota.
    """
    bounds = bounds or Bounds()
    identifier_text("NAME", name)
    if not scopes or not set(scopes) <= set(SCOPES):
        raise Malformed(f"--scope: expected one or more of {', '.join(SCOPES)}, came {', '.join(scopes) or 'none'}")
    if expires_in_days is not None and not 1 <= expires_in_days <= MAX_EXPIRES_IN_DAYS:
        raise Malformed(f"--expires-in-days: expected 1 to {MAX_EXPIRES_IN_DAYS}, came {expires_in_days}")
    if quota is not None and not 1 <= quota <= MAX_QUOTA:
        raise Malformed(f"--quota: expected 1 to {MAX_QUOTA} requests a day, came {quota}")
    if expires_in_days is not None:
        expires_at = datetime.now(UTC) + timedelta(days=expires_in_days)
    for _ in range(_ATTEMPTS):
        prefix = f"upt_{secrets.token_hex(6)}"
        token = f"{prefix}_{secrets.token_urlsafe(32)}"
        made = NewToken(secrets.token_hex(16), prefix, token)
        row = {
            "token_id": made.token_id,
            "token_prefix": prefix,
            "token_hash": _hash(token),
            "name": name,
            "scopes": sorted(set(scopes)),
            "expires_at": expires_at,
            "quota": quota,
            "sign_in": sign_in,
            "teams": list(bounds.teams),
            "services": list(bounds.services),
            "users": list(bounds.users),
        }
        with connection.transaction():
            # One at a time: two new ones with the same bounds find the same binding.
            connection.execute("select pg_advisory_xact_lock(hashtext('token_bindings'), 0)")
            if connection.execute(load("access/insert_api_access_token"), row).fetchone():
                return made
    raise RuntimeError(f"expected a free token prefix in {_ATTEMPTS} random ones, came none")


def list_tokens(connection: psycopg.Connection) -> list[ListedToken]:
    """All tokens that were made here, oldest first, also expired and revoked ones."""
    return [ListedToken(*row) for row in connection.execute(load("access/select_api_access_tokens"))]


def revoke_token(connection: psycopg.Connection, name: str) -> str:
    """Revokes the token of this id or prefix on an autocommit connection, and returns its prefix. It is safe to repeat.

    The caller must then delete its cached copy. Raises UnknownTokenError.
    """
    found = connection.execute(load("access/select_token_prefix"), {"name": name}).fetchone()
    if found is None:
        # Not repeated: it may be a whole token.
        raise UnknownTokenError(
            "expected the id or the prefix of a token (see `usage-pipeline tokens list`), came another text"
        )
    prefix: str = found[0]
    with connection.transaction():
        connection.execute(load("access/lock_api_access_token"), {"token_prefix": prefix})
        connection.execute(load("access/revoke_api_access_token"), {"token_prefix": prefix})
    return prefix


def find_token(connection: psycopg.Connection, token_prefix: str) -> AccessToken | None:
    """The stored token of this prefix, valid or not."""
    row = connection.execute(load("access/select_api_access_token"), {"token_prefix": token_prefix}).fetchone()
    return None if row is None else token_of_row(row)


def token_of_row(row: Sequence[Any]) -> AccessToken:
    """The token of a row as select_api_access_token.sql has it."""
    token_id, prefix, token_hash, name, scopes, expires_at, revoked_at, quota, *bound = row
    binding = _binding(*bound)
    return AccessToken(token_id, prefix, token_hash, name, tuple(scopes), expires_at, revoked_at, quota, binding)


def _binding(binding_id: UUID | None, teams: list[str], services: list[str], users: list[str]) -> Binding | None:
    bounds = Bounds(tuple(teams), tuple(services), tuple(users))
    if (binding_id is None) != (not bounds.members):
        raise RuntimeError("expected a binding with its values, or neither, came one of them")
    return None if binding_id is None else Binding(binding_id, bounds)


def _hash(token: str) -> str:
    return sha256(token.encode()).hexdigest()
