"""`/api/session`: signs a browser in with an invitation or a token, says who is signed in, and signs out."""

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from usage_pipeline.access.sessions import Sessions
from usage_pipeline.access.tokens import AccessToken
from usage_pipeline.api import problems
from usage_pipeline.api.auth import Gate, bearer_of, checking, of_unknown_session, of_unknown_token, requires
from usage_pipeline.api.ingest.bodies import JSON, media_type, received
from usage_pipeline.api.problems import Problem
from usage_pipeline.api.session.browser import clear_cookie, cookie_of, set_cookie, user_of
from usage_pipeline.api.session.opening import accepted, expect_own_page, found, opened, unauthorized
from usage_pipeline.api.usage.openapi import parameter
from usage_pipeline.api.usage.queries import parameters_of, shown, wrong
from usage_pipeline.api.usage.routes import json_response
from usage_pipeline.settings import Settings

_MOST_BYTES = 4 * 1024
_WHAT = '{"token": "…"} or {"invite": "…"}'
router = APIRouter(prefix="/api/session", tags=["session"])
_NOBODY, _ALLOWED = "nobody", "allowed"
_reader = requires("read", takes_bound=True)


class Bounds(BaseModel):
    """What may be seen. An empty list: all."""

    team: list[str]
    service: list[str]
    user: list[str]


class Session(BaseModel):
    """Who is signed in."""

    name: str = Field(description="Of the person, or of the token")
    scopes: list[str]
    bounds: Bounds
    expires_at: datetime | None = Field(alias="expiresAt", description="When it ends; null: when somebody ends it")
    signed_in_by: Literal["cookie", "proxy", "token"] = Field(
        alias="signedInBy", description="token: the request itself had one"
    )


class _SignIn(msgspec.Struct, forbid_unknown_fields=True):
    token: str | None = None
    invite: str | None = None


_decode = msgspec.json.Decoder(_SignIn).decode
_EXAMPLE = {
    "name": "ada",
    "scopes": ["read", "users"],
    "bounds": {"team": ["search"], "service": [], "user": []},
    "expiresAt": "2026-12-20T12:00:00.120000Z",
    "signedInBy": "cookie",
}
_ANSWER: dict[int | str, dict[str, Any]] = {200: {"content": {"application/json": {"example": _EXAMPLE}}}}
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "token": {"type": "string", "description": "A token of `usage-pipeline tokens create`"},
                        "invite": {"type": "string", "description": "The code of a link of `usage-pipeline invite`"},
                    },
                    "minProperties": 1,
                    "maxProperties": 1,
                    "additionalProperties": False,
                }
            }
        },
    }
}


_QUESTION: dict[str, Any] = {
    "parameters": [
        parameter(
            _NOBODY, "The answer is null if nobody is signed in", {"type": "string", "enum": [_ALLOWED]}, _ALLOWED
        )
    ],
    "security": [{"HTTPBearer": []}],
}


async def _reader_or_nobody(request: Request) -> AccessToken | None:
    shows_nothing = bearer_of(request) is None and cookie_of(request) is None and user_of(request) is None
    return None if shows_nothing and request.query_params.get(_NOBODY) == _ALLOWED else await _reader(request)


@router.post(
    "",
    summary="Sign in",
    response_model=Session,
    responses={**_ANSWER, **problems.responses(400, 401, 403, 408, 410, 413, 415, 422, 429, 500, 503)},
    openapi_extra=_BODY,
)
async def sign_in(request: Request) -> Response:
    """Sets the cookie of a session that stands for the token, or for what the invitation says: once, and within a day."""
    expect_own_page(request)
    parameters_of(request, ())
    given = await _given(request)
    if given.invite is not None:
        cookie = await accepted(request, given.invite)
    else:
        cookie = await opened(request, given.token or "")
    token = await found(request, cookie)
    return json_response(_document(token, "cookie"), {"Set-Cookie": set_cookie(request, cookie, token.expires_at)})


@router.get(
    "",
    summary="Who is signed in",
    response_model=Session | None,
    responses={**_ANSWER, **problems.responses(401, 403, 422, 429, 500, 503)},
    openapi_extra=_QUESTION,
)
async def signed_in(request: Request, caller: Annotated[AccessToken | None, Depends(_reader_or_nobody)]) -> Response:
    """Who asks, by a cookie, by a proxy, or by a token in the request. With `nobody=allowed` the answer is null if
    there is none of them, rather than a 401. A cookie or a token that is not good is a 401 all the same.
    """
    if (given := parameters_of(request, (_NOBODY,)).get(_NOBODY, _ALLOWED)) != _ALLOWED:
        raise wrong(_NOBODY, _ALLOWED, shown(given))
    return json_response(None if caller is None else _document(caller, request.state.signed_in_by))


@router.delete("", status_code=204, summary="Sign out", responses=problems.responses(401, 403, 409, 422, 429, 500, 503))
async def sign_out(request: Request) -> Response:
    """Ends the session of the cookie, and takes the cookie away. A token that is in the request, or signed in, stays valid."""
    expect_own_page(request)
    parameters_of(request, ())
    gate: Gate = request.app.state.gate
    given = bearer_of(request)
    if given is not None:
        with checking():
            token = await gate.enter(request, given)
        if token is None:
            raise of_unknown_token()
        return Response(status_code=204)
    sessions: Sessions = request.app.state.sessions
    cookie = cookie_of(request)
    if cookie is not None:
        with checking():
            is_closed = await sessions.close(cookie)
        if not is_closed:
            raise of_unknown_session(request)
        return Response(status_code=204, headers={"Set-Cookie": clear_cookie(request)})
    if user_of(request) is not None:
        detail = "expected a session of this service, came what a proxy says: sign out there"
        raise Problem(409, "signed-in-by-proxy", detail)
    raise unauthorized("expected the cookie of a session, came none")


async def _given(request: Request) -> _SignIn:
    # No form of another page can say so, and for a script the browser asks first.
    media_type(request, JSON)
    settings: Settings = request.app.state.settings
    body = await received(request, most=_MOST_BYTES, seconds=settings.body_timeout_seconds, limit="")
    try:
        given = _decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        # Without the parser's own words, which repeat names of members.
        given = _SignIn()
    if (given.token is None) == (given.invite is None):
        raise Problem(422, "invalid-request", f"body: expected {_WHAT}, came another document")
    return given


def _document(token: AccessToken, signed_in_by: str) -> dict[str, Any]:
    bounds = token.binding.bounds if token.binding else None
    return {
        "name": token.name,
        "scopes": list(token.scopes),
        "bounds": {
            "team": list(bounds.teams) if bounds else [],
            "service": list(bounds.services) if bounds else [],
            "user": list(bounds.users) if bounds else [],
        },
        "expiresAt": token.expires_at,
        "signedInBy": signed_in_by,
    }
