"""Bearer tokens and sign-ins, their scopes (contracts §3) and quotas. What is let in is recorded in Redis (§1.6)."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Annotated

import psycopg
from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from usage_pipeline.access.cache import TokenCache
from usage_pipeline.access.lookups import TooManyStrangers
from usage_pipeline.access.quota import Share, TokenQuota
from usage_pipeline.access.sessions import Sessions
from usage_pipeline.access.tokens import AccessToken, prefix_of
from usage_pipeline.access.uses import TokenUses
from usage_pipeline.api.audit import Presented
from usage_pipeline.api.problems import Problem, unavailable
from usage_pipeline.api.session.browser import clear_cookie, cookie_of, user_of
from usage_pipeline.bindings import Binding
from usage_pipeline.storage.postgres import is_mended_by_time
from usage_pipeline.texts import counted

REALM = 'Bearer realm="usage_pipeline"'
_READING = ("GET", "HEAD")
_bearer = HTTPBearer(
    auto_error=False,
    description="A token of `usage-pipeline tokens create`. Who only reads may sign in instead: see `/api/session`",
)


class Gate:
    """Checks tokens, sign-ins and quotas, and records uses."""

    def __init__(self, tokens: TokenCache, sessions: Sessions, quota: TokenQuota, uses: TokenUses) -> None:
        self._tokens = tokens
        self._sessions = sessions
        self._quota = quota
        self._uses = uses

    async def enter(self, request: Request, text: str) -> AccessToken | None:
        """The valid token with this text, or None. Raises Problem (429) when its quota is used up.

        It also raises TooManyStrangers, RedisBusy, and psycopg.Error.

        A request that is let in is counted and recorded. A request over the quota is not, so usage never exceeds the quota.
        """
        prefix = prefix_of(text)
        token = await self._tokens.find(prefix) if prefix else None
        return await self._admitted(request, token, _presented(token, text), "token")

    async def enter_by_session(self, request: Request, cookie: str) -> AccessToken | None:
        """The same for the cookie of a session."""
        token = await self._sessions.find(cookie)
        return await self._admitted(request, token, _known(token, "unknown or ended session"), "cookie")

    async def enter_by_proxy(self, request: Request, name: str) -> AccessToken | None:
        """The same for whom a trusted proxy names."""
        token = await self._sessions.find_person(name)
        return await self._admitted(request, token, _known(token, "nobody who was invited, by a proxy"), "proxy")

    async def _admitted(
        self, request: Request, token: AccessToken | None, presented: Presented, signed_in_by: str
    ) -> AccessToken | None:
        request.state.presented = presented
        if token is None or presented.refusal:
            return None
        request.state.signed_in_by = signed_in_by
        share = await self._quota.take_one(token)
        if share is not None:
            request.state.rate_limit = share.headers
            if share.is_refused:
                raise _quota_exceeded(share)
        request.state.use_recorded = self._uses.add(token.token_id)
        return token


def requires(scope: str, *, takes_bound: bool = False) -> Callable[..., Awaitable[AccessToken]]:
    """A dependency that returns the caller's token. It answers 401 without a valid token, and 403 without the scope.

    Who only reads may be signed in instead, by a proxy or by the cookie of a session. What a browser sends by itself never
    writes: 403.

    A bound token gets 403 too, whatever is asked for, unless the route `takes_bound` ones: then it keeps to `caller.binding`.
    """

    async def authenticated(
        request: Request, _: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)] = None
    ) -> AccessToken:
        given = bearer_of(request)
        token = await _caller(request) if given is None else await _bearer_of(request, given)
        expect_scope(token, scope)
        if token.binding is not None and not takes_bound:
            raise _bound(token.binding)
        return token

    return authenticated


def bearer_of(request: Request) -> str | None:
    """What stands in Authorization behind Bearer, which may be nothing; None without Bearer.

    Another scheme is for somebody before us: a proxy that asks for a password passes it on.
    """
    scheme, _, text = request.headers.get("authorization", "").partition(" ")
    return text.strip() if scheme.lower() == "bearer" else None


@contextmanager
def checking() -> Iterator[None]:
    """In this block somebody is looked up; when that is not possible, the answer is a 503."""
    try:
        yield
    except TooManyStrangers:
        raise unavailable("too many unknown tokens are being checked; send the request again") from None
    except psycopg.Error as error:
        if not is_mended_by_time(error):
            raise
        raise unavailable("the token cannot be checked: PostgreSQL does not answer; send the request again") from None


def of_unknown_token() -> Problem:
    """A 401 for what came behind Bearer."""
    detail = "Authorization: expected a valid token, came one that is unknown, expired or revoked"
    return Problem(401, "unauthorized", detail, {"WWW-Authenticate": f'{REALM}, error="invalid_token"'})


def of_unknown_session(request: Request) -> Problem:
    """A 401 for a cookie, which takes it away."""
    detail = "expected a session that has not ended, came another cookie: sign in again"
    return Problem(401, "unauthorized", detail, {"WWW-Authenticate": REALM, "Set-Cookie": clear_cookie(request)})


async def _bearer_of(request: Request, text: str) -> AccessToken:
    gate: Gate = request.app.state.gate
    with checking():
        token = await gate.enter(request, text)
    if token is None:
        raise of_unknown_token()
    return token


async def _caller(request: Request) -> AccessToken:
    """Who is signed in: whom the proxy names, if that one was invited, else whose cookie it is."""
    gate: Gate = request.app.state.gate
    name, cookie = user_of(request), cookie_of(request)
    if name is None and cookie is None:
        detail = "Authorization: expected Bearer and a token, came none"
        raise Problem(401, "unauthorized", detail, {"WWW-Authenticate": REALM})
    if request.method not in _READING:
        detail = "Authorization: expected Bearer and a token, since who is signed in only reads, came none"
        raise Problem(403, "forbidden", detail, {"WWW-Authenticate": REALM})
    with checking():
        token = await gate.enter_by_proxy(request, name) if name is not None else None
        if token is None and cookie is not None:
            token = await gate.enter_by_session(request, cookie)
    if token is not None:
        return token
    if cookie is not None:
        raise of_unknown_session(request)
    detail = "expected somebody who was invited (`usage-pipeline invite NAME --header`), came another from the proxy"
    raise Problem(401, "unauthorized", detail, {"WWW-Authenticate": REALM})


def _known(token: AccessToken | None, unknown: str) -> Presented:
    """What is known of who needs no secret any more."""
    return Presented(None, refusal=unknown) if token is None else _proven(token)


def _proven(token: AccessToken) -> Presented:
    if token.is_valid_at(datetime.now(UTC)):
        return Presented(token.token_id, is_proven=True)
    return Presented(token.token_id, is_proven=True, refusal="revoked token" if token.revoked_at else "expired token")


def _presented(token: AccessToken | None, text: str) -> Presented:
    if token is None:
        return Presented(None, refusal="unknown token")
    if not token.is_hash_of(text):
        return Presented(token.token_id, refusal="not the secret of this token")
    return _proven(token)


class Admission:
    """Middleware: delays the answer until the use of the token is recorded, and adds the headers of the token's quota."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})

        async def send_when_recorded(message: Message) -> None:
            if message["type"] == "http.response.start":
                if "use_recorded" in state:
                    # Not awaited itself: others wait for it too, and a client that goes away cancels its own request only.
                    await asyncio.wait([state["use_recorded"]])
                if "rate_limit" in state:
                    MutableHeaders(scope=message).update(state["rate_limit"])
            await send(message)

        await self._app(scope, receive, send_when_recorded)


def _quota_exceeded(share: Share) -> Problem:
    """429: the caller may send requests again when the next day begins."""
    detail = (
        f"expected at most {counted(share.quota, 'request')} a day with this token, came more; "
        f"the next day begins in {share.reset_seconds} s"
    )
    return Problem(429, "quota-exceeded", detail, {"Retry-After": str(share.reset_seconds)})


def _bound(binding: Binding) -> Problem:
    """403, before anything is looked up: what a route has cannot be told apart by team, service or user."""
    kinds = ", ".join(name.removesuffix("_id") for name in binding.bounds.members)
    detail = f"expected a token that is not bound, since this cannot be told apart by {kinds}, came one that is"
    return Problem(403, "bound-token", detail)


def expect_scope(token: AccessToken, scope: str) -> None:
    """Raises Problem (403) without the scope."""
    if scope not in token.scopes:
        detail = f"expected a token with the scope {scope}, came one with {', '.join(token.scopes) or 'none'}"
        challenge = f'{REALM}, error="insufficient_scope", scope="{scope}"'
        raise Problem(403, "forbidden", detail, {"WWW-Authenticate": challenge})
