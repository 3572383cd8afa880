"""Limits of connections, below the requests: the head of a request, the time for it, and how many connections there are.

uvicorn's protocol for httptools has none of these. What a request's body may be is in `ingest/bodies.py`.
"""

import asyncio
import json
import logging
import resource
from collections import Counter, defaultdict
from http import HTTPStatus
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from usage_pipeline.api.answers.headers import DEFAULTS
from usage_pipeline.settings import Settings

# The first line and the fields of a request together; also the fields after a chunked body.
MAX_HEAD_BYTES = 64 * 1024
# A field costs more memory than its bytes. Browsers behind proxies send about forty.
MAX_FIELDS = 128
# Requests that a client may send before the answer to its first one. Few clients send any.
MAX_PIPELINED = 8
# Listening sockets, PostgreSQL, Redis, logs, and connections that are accepted before they are counted.
RESERVED_FILES = 192
# What the system may hand us at a time. Each waits for us to count it, with a file open.
BACKLOG = 128
# Bytes of answers that clients do not read, of all connections of a process.
MAX_UNSENT_BYTES = 64 * 2**20
# How long the sender of a refused head may take to read why, and how much of it is still read and thrown away.
_LINGER_SECONDS = 1.0
_LINGER_BYTES = 2**20
# As a parser gets it: what is over the limit is noticed after so many bytes.
_PIECE_BYTES = 16 * 1024
# An episode of too many connections ends, and the next one is told again, below this share of the limit.
_OVER_AT = 0.9
_log = logging.getLogger(__name__)


class Connections:
    """Makes the protocol of each connection of one server, and keeps their number within the limits.

    A connection is idle as long as it waits for a whole head. When there are too many, of all or of one address, the one that
    has been idle longest is closed for the new one: half-sent requests keep nobody out. If all are busy, it gets a 503.
    """

    def __init__(self, settings: Settings, most: int | None = None) -> None:
        self.most = settings.max_connections if most is None else most
        self.most_per_address = min(settings.max_connections_per_address, self.most)
        self.head_seconds = settings.head_timeout_seconds
        self.stall_seconds = settings.body_timeout_seconds
        self.open: dict[BoundedConnection, str] = {}
        # By address, the longest idle first; "" is all together.
        self._idle: defaultdict[str, dict[BoundedConnection, None]] = defaultdict(dict)
        self._of_address: Counter[str] = Counter()
        # Whose answers wait to be read, the longest first.
        self._unread: dict[BoundedConnection, None] = {}
        # Of which addresses it was told that they have too many; "" is all together.
        self._told: set[str] = set()

    def __call__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> "BoundedConnection":
        """What uvicorn calls for each new connection."""
        return BoundedConnection(self, config, server_state, app_state, _loop)

    def admit(self, connection: "BoundedConnection", address: str) -> bool:
        """Counts a new connection. False when there is no place for it: all others are busy."""
        self.open[connection] = address
        self._of_address[address] += 1
        self.rests(connection)
        if self._of_address[address] > self.most_per_address < self.most:
            self._tell(address, self.most_per_address, "MAX_CONNECTIONS_PER_ADDRESS")
            return self._make_place(connection, address)
        if len(self.open) > self.most:
            self._tell("", self.most, "MAX_CONNECTIONS")
            return self._make_place(connection, "")
        return True

    def rests(self, connection: "BoundedConnection") -> None:
        """From now on the connection is idle."""
        if connection in self.open:
            for whose in {"", self.open[connection]}:
                self._idle[whose][connection] = None

    def works(self, connection: "BoundedConnection") -> None:
        """A request is in hand."""
        for whose in {"", self.open.get(connection, "")}:
            self._idle[whose].pop(connection, None)

    def waits_to_be_read(self, connection: "BoundedConnection") -> None:
        """Its client does not read as fast as we send. When there is too much of that, who has read nothing longest is cut."""
        self._unread[connection] = None
        unsent = sum(one.transport.get_write_buffer_size() for one in self._unread)
        for one in list(self._unread):
            if unsent <= MAX_UNSENT_BYTES:
                break
            unsent -= one.transport.get_write_buffer_size()
            one.cut()

    def is_read(self, connection: "BoundedConnection") -> None:
        """Its client reads again."""
        self._unread.pop(connection, None)

    def forget(self, connection: "BoundedConnection") -> None:
        """The connection is over, or as good as over."""
        self.is_read(connection)
        if connection not in self.open:
            return
        self.works(connection)
        address = self.open.pop(connection)
        self._of_address[address] -= 1
        if self._of_address[address] < self.most_per_address * _OVER_AT:
            self._told.discard(address)
        if not self._of_address[address]:
            del self._of_address[address]
            if address:
                del self._idle[address]
        if len(self.open) < self.most * _OVER_AT:
            self._told.discard("")

    def _make_place(self, newest: "BoundedConnection", address: str) -> bool:
        victim = next((one for one in self._idle[address] if one is not newest), None)
        if victim is None:
            return False
        victim.cut()
        return True

    def _tell(self, address: str, most: int, setting: str) -> None:
        if address in self._told:
            return
        self._told.add(address)
        whose = f"from {address}" if address else "in all"
        _log.warning("%d connections %s (%s): for each more, one that is idle is closed", most, whose, setting)


class BoundedConnection(HttpToolsProtocol):
    """One connection, with a limit for the head of a request, and a time for it."""

    def __init__(
        self,
        connections: Connections,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._limits = connections
        # Bytes since the parser last made something of them: the end of a head, or a piece of a body.
        self._unfinished_bytes = 0
        self._has_progress = False
        self._fields = 0
        self._refusal: HTTPStatus | None = None
        self._head_timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None
        self._is_next_postponed = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        if self._limits.admit(self, self.client[0] if self.client else ""):
            self._await_head()
        else:
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE)

    def connection_lost(self, exc: Exception | None) -> None:
        self._limits.forget(self)
        self._stop_timers()
        # Also when it ended with an error: a timer would keep all of this for its time.
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def cut(self) -> None:
        """Ends the connection now, whatever is still to be sent."""
        self._limits.forget(self)
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        if self._refusal is not None:
            self._unfinished_bytes += len(data)
            if self._unfinished_bytes > _LINGER_BYTES:
                self.cut()
            return
        if self._is_idle():
            # What comes after an answer, too: the rest of its request, byte by byte, would go on for ever.
            self._await_head()
        whole = memoryview(data)
        for first in range(0, len(data), _PIECE_BYTES):
            if self._refusal is not None or self.transport.is_closing():
                return
            piece = whole[first : first + _PIECE_BYTES]
            self._has_progress = False
            super().data_received(piece)  # type: ignore[arg-type]  # the parser takes any buffer
            self._unfinished_bytes = 0 if self._has_progress else self._unfinished_bytes + len(piece)
            if self._refusal is None and self._unfinished_bytes > MAX_HEAD_BYTES:
                is_url = len(self.url) > MAX_HEAD_BYTES // 2
                self._refuse(HTTPStatus.REQUEST_URI_TOO_LONG if is_url else HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._fields = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields += 1
        if self._fields > MAX_FIELDS:
            raise self._refused(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._has_progress = True
        if len(self.pipeline) >= MAX_PIPELINED:
            raise self._refused(HTTPStatus.TOO_MANY_REQUESTS)
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        self._limits.works(self)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._has_progress = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._has_progress = True
        super().on_message_complete()

    def on_response_complete(self) -> None:
        if self.flow.write_paused and self.pipeline:
            # The next answer is made when this one is read: else it would wait in memory beside it.
            self._is_next_postponed = True
            return
        super().on_response_complete()
        if self._is_idle():
            self._limits.rests(self)

    def send_400_response(self, msg: str) -> None:
        # The parser stops at an error of ours as at one of the sender's.
        if self._refusal is None:
            super().send_400_response(msg)
        else:
            self._answer(self._refusal)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stall_timer = self.loop.call_later(self._limits.stall_seconds, self.cut)
        self._limits.waits_to_be_read(self)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None
        self._limits.is_read(self)
        if self._is_next_postponed:
            self._is_next_postponed = False
            self.on_response_complete()

    def timeout_keep_alive_handler(self) -> None:
        # To close it would wait until the client has read the answer, which it may never do.
        if self.transport.get_write_buffer_size():
            self.cut()
        else:
            super().timeout_keep_alive_handler()

    def _unsupported_upgrade_warning(self) -> None:
        """Says nothing: anybody could fill the log with it. The request is answered like any other."""

    def _is_idle(self) -> bool:
        return self.cycle is None or (self.cycle.response_complete and not self.pipeline)

    def _await_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self._limits.head_seconds, self._head_is_late)

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self.transport.is_closing():
            self.cut()
        elif self._unfinished_bytes:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT)
        else:
            # Nothing was asked, so there is nothing to answer.
            self.cut()

    def _refused(self, status: HTTPStatus) -> Exception:
        """For a callback to raise: the parser stops, and the refusal is sent."""
        self._refusal = status
        return ValueError(status.phrase)

    def _refuse(self, status: HTTPStatus) -> None:
        self._refusal = status
        self._answer(status)

    def _answer(self, status: HTTPStatus) -> None:
        """Sends the refusal, and reads on for a moment: to close on unread bytes is a reset, and the answer would be lost."""
        if not self._is_idle() or self.transport.is_closing():
            # An answer to an earlier request is on its way, and this one may not be put into it.
            self.cut()
            return
        self.transport.write(_refusal(status))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._stop_timers()
        self._head_timer = self.loop.call_later(_LINGER_SECONDS, self.cut)

    def _stop_timers(self) -> None:
        for timer in (self._head_timer, self._stall_timer):
            if timer is not None:
                timer.cancel()
        self._head_timer = self._stall_timer = None


_EXPECTED = {
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: (
        f"expected a head of at most {MAX_HEAD_BYTES} bytes and {MAX_FIELDS} fields, came more"
    ),
    HTTPStatus.REQUEST_URI_TOO_LONG: f"expected a head of at most {MAX_HEAD_BYTES} bytes, came a longer address",
    HTTPStatus.REQUEST_TIMEOUT: "expected the whole head within HEAD_TIMEOUT_SECONDS, came a part of it",
    HTTPStatus.TOO_MANY_REQUESTS: f"expected at most {MAX_PIPELINED} requests before the first answer, came more",
    HTTPStatus.SERVICE_UNAVAILABLE: "this server takes no more connections at once; try again",
}


def _refusal(status: HTTPStatus) -> bytes:
    """A problem document, like the errors of the app, but of a request that nobody has read to its end."""
    kind = status.phrase.lower().replace(" ", "-")
    document = {
        "type": f"urn:usage-pipeline:{kind}",
        "title": status.phrase.capitalize(),
        "status": status.value,
        "detail": _EXPECTED[status],
    }
    body = json.dumps(document).encode()
    retry = "Retry-After: 2\r\n" if status is HTTPStatus.SERVICE_UNAVAILABLE else ""
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: application/problem+json\r\n"
        f"Content-Length: {len(body)}\r\n{retry}Connection: close\r\n"
    )
    # The app's own answers get these on their way out.
    of_all = b"".join(b"%b: %b\r\n" % header for header in DEFAULTS)
    return head.encode() + of_all + b"\r\n" + body


def most_connections(settings: Settings) -> int:
    """MAX_CONNECTIONS, or as many as this process may have files open for. It asks the system for more files where it may.

    Without this, the system itself would close new connections, without a word.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = settings.max_connections + settings.db_pool_size + RESERVED_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        wanted = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return settings.max_connections
    possible = max(1, soft - settings.db_pool_size - RESERVED_FILES)
    _log.warning(
        "at most %d connections at once, since this process may open %d files (ulimit -n); MAX_CONNECTIONS is %d",
        possible,
        soft,
        settings.max_connections,
    )
    return possible
