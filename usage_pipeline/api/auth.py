"""Who asks: bearer tokens and their scopes (contracts §3). Each authenticated request is recorded in Redis (§1.6)."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.concurrency import run_in_threadpool

from usage_pipeline.api.problems import Problem, unavailable
from usage_pipeline.api.storing import AWAY
from usage_pipeline.api.token_cache import TokenCache
from usage_pipeline.api.tokens import AccessToken, prefix_of
from usage_pipeline.counters.recorder import AsyncRecorder

_REALM = 'Bearer realm="usage_pipeline"'
_bearer = HTTPBearer(auto_error=False, description="A token of `usage-pipeline tokens create NAME --scope ingest`")


@dataclass(frozen=True, slots=True)
class Gate:
    """What the check needs; `instance_id` names this server in the token's usage."""

    tokens: TokenCache
    recorder: AsyncRecorder
    instance_id: str


def requires(scope: str) -> Callable[..., object]:
    """A dependency that answers the caller's token, or ends the request: 401 without a valid one, 403 without the scope."""

    async def authenticated(
        request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
    ) -> AsyncIterator[AccessToken]:
        gate: Gate = request.app.state.gate
        if credentials is None:
            detail = "Authorization: expected Bearer and a token, came none"
            raise Problem(401, "unauthorized", detail, {"WWW-Authenticate": _REALM})
        try:
            token = await run_in_threadpool(_valid_token, gate.tokens, credentials.credentials)
        except AWAY:
            raise unavailable(
                "the token cannot be checked: PostgreSQL does not answer; send the request again"
            ) from None
        if token is None:
            detail = "Authorization: expected a valid token, came one that is unknown, expired or revoked"
            raise Problem(401, "unauthorized", detail, {"WWW-Authenticate": f'{_REALM}, error="invalid_token"'})
        # While the request is answered: Redis may take some milliseconds to write its file.
        recording = asyncio.ensure_future(gate.recorder.record_token(token.token_id, gate.instance_id))
        try:
            _expect_scope(token, scope)
            yield token
        finally:
            await recording

    return authenticated


def _expect_scope(token: AccessToken, scope: str) -> None:
    if scope not in token.scopes:
        detail = f"expected a token with the scope {scope}, came one with {', '.join(token.scopes) or 'none'}"
        challenge = f'{_REALM}, error="insufficient_scope", scope="{scope}"'
        raise Problem(403, "forbidden", detail, {"WWW-Authenticate": challenge})


def _valid_token(tokens: TokenCache, text: str) -> AccessToken | None:
    prefix = prefix_of(text)
    token = prefix and tokens.find(prefix)
    if token and token.is_hash_of(text) and token.is_valid_at(datetime.now(UTC)):
        return token
    return None
