"""Browsers that are signed in: finds the token that a cookie stands for, opens sessions and ends them, for the HTTP service.

A cookie is 256 random bits, and what is stored is its hash. Nothing of it is cached: whoever is signed out is out at once.
"""

import re
import secrets
from collections.abc import Callable
from hashlib import sha256
from typing import Any, TypeVar

import psycopg
from starlette.concurrency import run_in_threadpool

from usage_pipeline.access.lookups import TokenLookups
from usage_pipeline.access.revocations import Connect
from usage_pipeline.access.tokens import AccessToken, token_of_row
from usage_pipeline.storage.sql import load

_SECRET = re.compile(r"(ups|upi)_[A-Za-z0-9_-]{43}")
Found = TypeVar("Found")


class InvitationOver(Exception):
    """The invitation was used, is too old, or was revoked."""


class Sessions:
    """Asks PostgreSQL in threads. `lookups` limits what unknown cookies, codes and names cost it, as it does for tokens.

    All raise psycopg.Error when PostgreSQL fails, or TooManyStrangers.
    """

    def __init__(self, connect: Connect, lookups: TokenLookups) -> None:
        self._connect = connect
        self._lookups = lookups

    async def find(self, cookie: str) -> AccessToken | None:
        """The token of the session with this cookie, valid or not."""
        if not _is_a(cookie, "ups"):
            return None
        digest = _hash(cookie)
        return await self._looked_up(
            f"session {digest}", lambda one: _token(one, "select_session", session_hash=digest)
        )

    async def find_person(self, name: str) -> AccessToken | None:
        """The token of whom a proxy names, valid or not."""
        return await self._looked_up(f"person {name}", lambda one: _token(one, "select_person", name=name))

    async def accept(self, code: str) -> str | None:
        """The cookie of the session that an invitation opens; None for an unknown code. Raises InvitationOver."""
        if not _is_a(code, "upi"):
            return None
        digest, cookie = _hash(code), _new_cookie()

        def accepted(connection: psycopg.Connection) -> str | None:
            outcome: str | None = _answer(connection, "select ops.accept_invitation(%s, %s)", digest, _hash(cookie))
            return outcome

        outcome = await self._looked_up(f"invitation {digest}", accepted)
        if outcome == "over":
            raise InvitationOver
        return None if outcome is None else cookie

    async def open(self, token: AccessToken) -> str | None:
        """The cookie of a new session that stands for the token, whose secret was shown; None if it is valid no longer."""
        cookie = _new_cookie()

        def opened(connection: psycopg.Connection) -> bool | None:
            arguments = token.token_id, token.token_hash, _hash(cookie)
            return _answer(connection, "select ops.open_session(%s, %s, %s)", *arguments) or None

        return cookie if await self._in_thread(opened) else None

    async def close(self, cookie: str) -> bool:
        """Ends the session. False if there is none."""
        if not _is_a(cookie, "ups"):
            return False
        digest = _hash(cookie)

        def closed(connection: psycopg.Connection) -> bool | None:
            return _answer(connection, "select ops.close_session(%s)", digest) or None

        return bool(await self._looked_up(f"session {digest}", closed))

    async def _looked_up(self, name: str, ask: Callable[[psycopg.Connection], Found | None]) -> Found | None:
        return await self._lookups.find(name, lambda: self._in_thread(ask))

    async def _in_thread(self, ask: Callable[[psycopg.Connection], Found]) -> Found:
        def asked() -> Found:
            with self._connect() as connection:
                return ask(connection)

        return await run_in_threadpool(asked)


def _token(connection: psycopg.Connection, query: str, **arguments: str) -> AccessToken | None:
    row = connection.execute(load(f"access/{query}"), arguments).fetchone()
    return None if row is None else token_of_row(row)


def _answer(connection: psycopg.Connection, query: Any, *arguments: str) -> Any:
    [(found,)] = connection.execute(query, arguments).fetchall()
    return found


def _is_a(text: str, kind: str) -> bool:
    """Whether a text has the form of a cookie (`ups`) or of a code (`upi`): any other needs no look-up."""
    match = _SECRET.fullmatch(text)
    return match is not None and match[1] == kind


def _new_cookie() -> str:
    return f"ups_{secrets.token_urlsafe(32)}"


def _hash(secret: str) -> str:
    return sha256(secret.encode()).hexdigest()
