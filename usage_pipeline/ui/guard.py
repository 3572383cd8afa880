"""The guard as ASGI middleware: it refuses what foreign pages send, asks for the login, bounds bodies, and adds headers."""

import asyncio
from collections import deque
from collections.abc import Collection

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from usage_pipeline.access.audit import AuditLog
from usage_pipeline.ui.login import Login
from usage_pipeline.ui.origin import Refusal, refusal

# The largest that the page sends is the configuration of a run.
MAX_BODY_BYTES = 4 * 2**20
BODY_TIMEOUT_SECONDS = 30.0
# Kubernetes and compose ask it whether the server lives. It tells versions only.
_PROBE = "/server_info"
# In the audit log: the HTTP service may write to the same file.
_NAME = "dagster-ui"
_HEADERS = {
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
# Beside Dagster's own policy; both hold. No picture of elsewhere: text that somebody sent could report who reads it.
_POLICY = "frame-ancestors 'none'; form-action 'self'; img-src 'self' data: blob:"


class Guard:
    """Stands before `app`. `allowed_hosts` are names in lower case without ports; a request under another is refused."""

    def __init__(self, app: ASGIApp, *, allowed_hosts: Collection[str], login: Login, audit: AuditLog) -> None:
        self._app = app
        self._allowed_hosts = frozenset(allowed_hosts)
        self._login = login
        self._audit = audit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            try:
                await self._app(scope, receive, send)
            finally:
                self._audit.close()
            return
        is_websocket = scope["type"] == "websocket"
        found = await self._refusal(scope, is_websocket)
        if found:
            self._tell(scope, found)
            await _refuse(found, scope, receive, send)
            return
        if is_websocket:
            await self._app(scope, receive, send)
            return
        if scope["method"] == "POST":
            try:
                async with asyncio.timeout(BODY_TIMEOUT_SECONDS):
                    receive = await _bounded(scope, receive)
            except (TimeoutError, _TooLarge) as problem:
                expected = f"{MAX_BODY_BYTES} bytes at most, within {BODY_TIMEOUT_SECONDS:.0f} s"
                late = Refusal(413 if isinstance(problem, _TooLarge) else 408, f"expected a body of {expected}")
                self._tell(scope, late)
                await _refuse(late, scope, receive, send)
                return
            except _Gone:
                # Dagster would end in a traceback, and anybody could fill the log.
                return
        else:
            # Dagster would execute the query of a GET. The page itself reads it in the browser.
            scope = {**scope, "query_string": b""} if _is_graphql(scope["path"]) else scope
        await self._app(scope, receive, _with_headers(send))

    async def _refusal(self, scope: Scope, is_websocket: bool) -> Refusal | None:
        headers, method, path = Headers(scope=scope), scope.get("method", "GET"), scope["path"]
        found = refusal(method, path, headers, allowed_hosts=self._allowed_hosts, is_websocket=is_websocket)
        if found or (method in ("GET", "HEAD") and path == _PROBE and not is_websocket):
            return found
        return await self._login.refusal(headers, _address(scope))

    def _tell(self, scope: Scope, found: Refusal) -> None:
        route = f"{_NAME} {scope.get('method', 'WebSocket')[:20]} {scope['path']}"
        self._audit.refused(_address(scope), route, found.status, found.reason)


class _TooLarge(Exception):
    """The body is larger than MAX_BODY_BYTES."""


class _Gone(Exception):
    """The client has left before its body was here."""


async def _bounded(scope: Scope, receive: Receive) -> Receive:
    """Reads the whole body, and returns a `receive` that gives it again. Raises _TooLarge or _Gone."""
    told = Headers(scope=scope).get("content-length", "")
    if told.isdigit() and int(told) > MAX_BODY_BYTES:
        raise _TooLarge
    messages: deque[Message] = deque()
    size = 0
    while not messages or messages[-1].get("more_body"):
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _Gone
        messages.append(message)
        size += len(message.get("body", b""))
        if size > MAX_BODY_BYTES:
            raise _TooLarge

    async def again() -> Message:
        return messages.popleft() if messages else await receive()

    return again


async def _refuse(found: Refusal, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        # Before it is accepted: the handshake is answered with 403.
        await send({"type": "websocket.close", "code": 1008})
        return
    answer = PlainTextResponse(f"{found.reason}\n", found.status, dict(found.headers))
    answer.headers["Connection"] = "close"
    await answer(scope, receive, _with_headers(send))


def _with_headers(send: Send) -> Send:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers[name] = value
            headers.append("Content-Security-Policy", _POLICY)
        await send(message)

    return sent


def _is_graphql(path: str) -> bool:
    return path.rstrip("/").endswith("/graphql")


def _address(scope: Scope) -> str:
    client = scope.get("client")
    return str(client[0]) if client else "unknown"
