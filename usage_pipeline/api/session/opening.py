"""Opens the session of who shows a token or an invitation, and tells a page of this service from one of elsewhere."""

from urllib.parse import urlsplit

from fastapi import Request

from usage_pipeline.access.sessions import InvitationOver, Sessions
from usage_pipeline.access.tokens import AccessToken
from usage_pipeline.api.audit import Presented
from usage_pipeline.api.auth import REALM, Gate, checking, expect_scope
from usage_pipeline.api.problems import Problem
from usage_pipeline.api.session.browser import cookie_of


def expect_own_page(request: Request) -> None:
    """Refuses what a page of elsewhere has its visitor's browser send. Browsers say so (Fetch Metadata); programs do not."""
    if request.headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
        detail = "expected a page of this service, came another (Sec-Fetch-Site)"
        raise Problem(403, "forbidden", detail)


def expect_own_form(request: Request) -> None:
    """The same for what a form can send. Over http a browser has no Fetch Metadata, but says the page's Origin.

    A browser for text says neither, and no page has it send a form by itself.
    """
    expect_own_page(request)
    origin = request.headers.get("origin")
    if "sec-fetch-site" in request.headers or origin is None:
        return
    if urlsplit(origin).netloc != request.headers.get("host"):
        detail = "expected a form of this service, came one of another origin (or through a proxy that does not pass Host on)"
        raise Problem(403, "forbidden", detail)


async def accepted(request: Request, code: str) -> str:
    """The cookie of the session that an invitation opens. Raises Problem: 401 for an unknown one, 410 if it is over."""
    sessions: Sessions = request.app.state.sessions
    try:
        with checking():
            cookie = await sessions.accept(code)
    except InvitationOver:
        request.state.presented = Presented(None, refusal="invitation that is over")
        raise over("it was used, is older than a day, or was revoked") from None
    if cookie is None:
        request.state.presented = Presented(None, refusal="unknown invitation")
        raise unauthorized("invite: expected the code of an invitation, came one that is unknown")
    return cookie


async def opened(request: Request, text: str) -> str:
    """The cookie of a session that stands for a token. Raises Problem: 401, or 403 for one that does not read."""
    gate: Gate = request.app.state.gate
    sessions: Sessions = request.app.state.sessions
    with checking():
        token = await gate.enter(request, text)
        if token is not None:
            expect_scope(token, "read")
        cookie = await sessions.open(token) if token is not None else None
    if cookie is None:
        raise unauthorized("token: expected a valid token, came one that is unknown, expired or revoked")
    return cookie


async def found(request: Request, cookie: str) -> AccessToken:
    """The token of the session that was just opened; the one that this browser had before ends.

    Raises Problem (410) if the new one is over already.
    """
    sessions: Sessions = request.app.state.sessions
    before = cookie_of(request)
    with checking():
        token = await sessions.find(cookie)
        if token is not None and before is not None:
            await sessions.close(before)
    if token is None:
        raise over("it was ended at the same moment")
    return token


def unauthorized(detail: str) -> Problem:
    """A 401."""
    return Problem(401, "unauthorized", detail, {"WWW-Authenticate": REALM})


def over(why: str) -> Problem:
    """A 410."""
    return Problem(410, "gone", f"invite: expected an invitation that is still good, came one that is over: {why}")
