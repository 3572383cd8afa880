"""The guard as ASGI middleware: it refuses what foreign pages send, asks for the login, bounds bodies, and adds headers."""

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

import msgspec
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from usage_pipeline.access.audit import AuditLog
from usage_pipeline.ui.login import Login
from usage_pipeline.ui.origin import Refusal, refusal

# The largest that the page sends is the configuration of a run, in the variables of a query.
MAX_BODY_BYTES = 4 * 2**20
# The page's longest query has 30 KB. Parsing and validating one takes Dagster 10 µs and a hundred bytes for each byte of it.
MAX_QUERY_BYTES = 64 * 1024
BODY_TIMEOUT_SECONDS = 30.0
# Of all bodies at once, beyond the first bytes of each; half of them of one address. What the page sends has a few thousand.
MAX_BODIES_BYTES = 64 * 2**20
_FREE_BYTES = 64 * 1024
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
        self._bodies = _Bodies()

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
            with self._bodies.of(_address(scope)) as count:
                await self._with_body(scope, receive, send, count)
            return
        # Dagster would execute the query of a GET. The page itself reads it in the browser.
        scope = {**scope, "query_string": b""} if _is_graphql(scope["path"]) else scope
        await self._app(scope, receive, _with_headers(send))

    async def _with_body(self, scope: Scope, receive: Receive, send: Send, count: Callable[[int], None]) -> None:
        try:
            async with asyncio.timeout(BODY_TIMEOUT_SECONDS):
                messages = await _bounded(scope, receive, count)
        except (TimeoutError, _TooLarge) as problem:
            expected = f"{MAX_BODY_BYTES} bytes at most, within {BODY_TIMEOUT_SECONDS:.0f} s"
            found = Refusal(413 if isinstance(problem, _TooLarge) else 408, f"expected a body of {expected}")
        except _NoRoom:
            found = Refusal(503, "the bodies in hand are as large as this server takes at once; send it again")
        except _Gone:
            # Dagster would end in a traceback, and anybody could fill the log.
            return
        else:
            wrong = _wrong_query(messages) if _is_graphql(scope["path"]) else None
            if wrong is None:
                await self._app(scope, _again(messages, receive), _with_headers(send))
                return
            found = wrong
        self._tell(scope, found)
        await _refuse(found, scope, receive, send)

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


class _NoRoom(Exception):
    """The bodies in hand have MAX_BODIES_BYTES, or half of them are of one address."""


class _Bodies:
    """The bytes of all bodies in hand, by address."""

    def __init__(self) -> None:
        self._of_address: Counter[str] = Counter()

    @contextmanager
    def of(self, address: str) -> Iterator[Callable[[int], None]]:
        """Counts the bytes of a body until the end of the block. It gives a call that says how many there are; _NoRoom."""
        counted = 0

        def count(size: int) -> None:
            nonlocal counted
            more = max(0, size - _FREE_BYTES) - counted
            all_, own = self._of_address.total(), self._of_address[address]
            if all_ + more > MAX_BODIES_BYTES or own + more > MAX_BODIES_BYTES // 2:
                raise _NoRoom
            self._of_address[address] += more
            counted += more

        try:
            yield count
        finally:
            self._of_address[address] -= counted
            if not self._of_address[address]:
                del self._of_address[address]


async def _bounded(scope: Scope, receive: Receive, count: Callable[[int], None]) -> deque[Message]:
    """The messages of the whole body. Raises _TooLarge, _NoRoom or _Gone."""
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
        count(size)
    return messages


def _again(messages: deque[Message], receive: Receive) -> Receive:
    """A `receive` that gives these messages first."""

    async def received() -> Message:
        return messages.popleft() if messages else await receive()

    return received


class _Query(msgspec.Struct):
    """A request of GraphQL, of which only the length of its query matters."""

    query: msgspec.Raw = msgspec.Raw(b"")


_decode_query = msgspec.json.Decoder(_Query).decode


def _wrong_query(messages: Collection[Message]) -> Refusal | None:
    try:
        asked = _decode_query(b"".join(message.get("body", b"") for message in messages))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return Refusal(400, "expected a JSON object with a GraphQL query")
    if memoryview(asked.query).nbytes > MAX_QUERY_BYTES:
        return Refusal(413, f"expected a GraphQL query of at most {MAX_QUERY_BYTES} bytes")
    return None


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
