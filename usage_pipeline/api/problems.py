"""All errors of the service, as problem documents (RFC 9457)."""

import asyncio
import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from usage_pipeline.access.audit import AuditLog
from usage_pipeline.api.audit import note_refusal
from usage_pipeline.api.connections.protocol import RESTS
from usage_pipeline.storage.quick_redis import RedisBusy
from usage_pipeline.texts import shortened

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = 2
# What is still read of a request that was refused, so that its sender sees the answer before the connection is closed:
# closing on unread bytes resets it, and the answer would be lost.
_LINGER_BYTES = 64 * 2**20
_LINGER_SECONDS = 2.0
# What a document repeats of what came: an answer must not be larger than its request.
_DETAIL_CHARACTERS = 2_000
_PATH_CHARACTERS = 200
_log = logging.getLogger(__name__)


class ProblemDocument(BaseModel):
    """A problem document (RFC 9457)."""

    type: str = Field(description="The kind of problem, for programs", examples=["urn:usage-pipeline:too-many-items"])
    title: str = Field(description="The kind of problem, for people", examples=["Too many items"])
    status: int = Field(description="HTTP status", examples=[413])
    detail: str = Field(
        description="What was expected and what came", examples=["expected at most 1000 items, came 1001"]
    )
    instance: str = Field(description="Path of the request", examples=["/api/v1/ingest/requests:bulk"])


class Problem(Exception):
    """Ends a request with a problem document. `kind` is the end of its type, with `-` for spaces."""

    def __init__(self, status: int, kind: str, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.kind = kind
        self.detail = detail
        self.headers = dict(headers or {})


def unavailable(what: str) -> Problem:
    """A 503: nothing is stored, and the client may send the same request again later."""
    return Problem(503, "unavailable", what, {"Retry-After": str(RETRY_AFTER_SECONDS)})


def of_busy_redis(error: Exception) -> Problem:
    """The 503 of a Redis that does not answer in time."""
    return unavailable(f"{error}; send the request again")


class RefusalResponse(Response):
    """A refusal. If the request was not read to its end, the rest is read for a moment, then the connection closes."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get("state", {}).get("is_body_read") or not _has_body(scope):
            await super().__call__(scope, receive, send)
            return
        self.headers["Connection"] = "close"
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        # The whole answer is on its way now; the empty end of it, and with it the closing, waits for the sender.
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        # From here on the connection may be closed for another one: anybody can send a body that is refused.
        if (extension := scope.get("extensions", {}).get(RESTS)) is not None:
            extension["now"]()
        await _read_the_rest(receive)
        await send({"type": "http.response.body", "body": b""})


class ProblemResponse(RefusalResponse, JSONResponse):
    """A problem document."""

    media_type = MEDIA_TYPE


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI part for answers with these statuses."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDocument"}}}
    return {
        status: {"model": ProblemDocument, "description": HTTPStatus(status).phrase, "content": content}
        for status in statuses
    }


def install(app: FastAPI) -> None:
    """Makes a problem document of every error of the app. Those that refuse are noted in `app.state.audit`."""
    app.add_exception_handler(Problem, _of_problem)
    app.add_exception_handler(RedisBusy, _of_busy_redis)
    app.add_exception_handler(HTTPException, _of_http_exception)
    app.add_exception_handler(RequestValidationError, _of_validation_error)
    app.add_exception_handler(Exception, _of_defect)


def noted(request: Request, problem: Problem) -> str:
    """Notes a refusal in the audit log; what may be repeated of its reason."""
    audit: AuditLog = request.app.state.audit
    note_refusal(audit, request, problem.status, str(problem))
    return shortened(problem.detail, _DETAIL_CHARACTERS)


def _response(request: Request, problem: Problem) -> Response:
    detail = noted(request, problem)
    document = ProblemDocument(
        type=f"urn:usage-pipeline:{problem.kind}",
        title=problem.kind.replace("-", " ").capitalize(),
        status=problem.status,
        detail=detail,
        instance=shortened(request.url.path, _PATH_CHARACTERS),
    )
    return ProblemResponse(document.model_dump(), problem.status, problem.headers)


async def _of_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)  # noqa: S101  # what Starlette's signature cannot say
    return _response(request, error)


async def _of_busy_redis(request: Request, error: Exception) -> Response:
    return _response(request, of_busy_redis(error))


async def _of_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101
    kind = HTTPStatus(error.status_code).phrase.lower().replace(" ", "-")
    path = shortened(request.url.path, _PATH_CHARACTERS)
    details = {404: f"there is nothing at {path}", 405: f"this route does not answer {request.method}"}
    return _response(
        request, Problem(error.status_code, kind, details.get(error.status_code, str(error.detail)), error.headers)
    )


async def _of_validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101
    found = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()]
    return _response(request, Problem(422, "invalid-request", "; ".join(found)))


async def _of_defect(request: Request, error: Exception) -> Response:
    """A 500. Starlette raises the error again after the answer, so the traceback goes to the log."""
    return _response(request, Problem(500, "internal-error", "the server failed. Its log has the error"))


def _has_body(scope: Scope) -> bool:
    return any(name in (b"content-length", b"transfer-encoding") for name, _ in scope["headers"])


async def _read_the_rest(receive: Receive) -> None:
    left = _LINGER_BYTES
    try:
        async with asyncio.timeout(_LINGER_SECONDS):
            while left > 0:
                message = await receive()
                if message["type"] == "http.disconnect" or not message.get("more_body", False):
                    return
                left -= len(message.get("body", b""))
    except TimeoutError:
        pass
