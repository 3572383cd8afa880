"""One connection: limits for the head of a request and for the time it takes, for what is sent ahead, and for slow readers."""

import asyncio
import socket
import sys
import termios
from collections.abc import Callable
from dataclasses import dataclass
from fcntl import ioctl
from functools import partial
from http import HTTPStatus
from typing import Any, cast

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from usage_pipeline.api.connections.counting import Connections, counted_as, most_connections
from usage_pipeline.api.connections.refusals import MAX_FIELDS, MAX_HEAD_BYTES, MAX_PIPELINED, is_too_long, refusal
from usage_pipeline.settings import Settings

# Of all that comes before the answer to an earlier request.
MAX_AHEAD_BYTES = 16 * 1024
# What may wait of an answer before its connection counts as stalled.
UNSENT_BYTES = 16 * 1024
# And in the kernel, which would take megabytes. It counts twice what we ask for.
SEND_BUFFER_BYTES = 64 * 1024
# How long the sender of a refused head may take to read why, and how much of it is still read and thrown away.
_LINGER_SECONDS = 1.0
_LINGER_BYTES = 2**20
# As a parser gets it: what is over the limit is noticed after so many bytes.
_PIECE_BYTES = 16 * 1024
# What the system may hand us at a time. Each waits for us to count it, with a file open.
BACKLOG = 128


# An extension of a request's scope: what answered it calls `now` when all that is left is to throw away the rest of its body.
RESTS = "usage_pipeline.rests"
# Another one: a Peer. The server may have changed `client` and `scheme` by headers that anybody can send.
PEER = "usage_pipeline.peer"


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end of a connection: its address, None for a socket of this machine, and http or https."""

    address: str | None
    scheme: str


def bounded_connections(settings: Settings) -> Callable[..., asyncio.Protocol]:
    """The `http` of uvicorn's options, beside BACKLOG: connections of one server, within the limits of the settings."""
    return partial(BoundedConnection, Connections(settings, most_connections(settings)))


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
        # Bytes of requests that came before the answer to an earlier one.
        self._ahead_bytes = 0
        # What the client had not read of its answer when it was last looked at, and since when; None: nothing waited here.
        self._unread_bytes: int | None = None
        self._read_at = 0.0
        # Whether its time without a request is over, and only its answer is still to be read.
        self._is_overdue = False
        # The request that is being answered. uvicorn's own `cycle` is the last one that came.
        self._in_hand: RequestResponseCycle | None = None
        self._is_next_postponed = False
        self._fields = 0
        # From here on, fields are behind a chunked body. They are no part of the head (RFC 9110, 6.5.1); no route wants them.
        self._is_head_complete = False
        # The parser reads the head of the request in hand once more, and nothing is to be made of it.
        self._is_head_again = False
        self._refusal: HTTPStatus | None = None
        self._head_timer: asyncio.TimerHandle | None = None
        # Set once this is a WebSocket: uvicorn's protocol for it, behind our limits.
        self._socket: asyncio.Protocol | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=UNSENT_BYTES)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        if self._limits.admit(self, counted_as(self.client[0]) if self.client else ""):
            self._await_head()
        else:
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE)

    def connection_lost(self, exc: Exception | None) -> None:
        self._limits.forget(self)
        self._stop_head_timer()
        self._disconnect()
        # Also when it ended with an error: a timer would keep all of this for its time.
        self._unset_keepalive_if_required()
        super().connection_lost(exc)
        if self._socket is not None:
            self._socket.connection_lost(exc)

    def cut(self) -> None:
        """Ends the connection now, whatever is still to be sent."""
        self._limits.forget(self)
        self._disconnect()
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._socket is not None:
            self._socket.data_received(data)
            return
        self._unset_keepalive_if_required()
        self._is_overdue = False
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
            if self._socket is not None:
                self._socket.data_received(data[first:])
                return
            piece = whole[first : first + _PIECE_BYTES]
            self._ahead_bytes = self._ahead_bytes + len(piece) if self._is_ahead() else 0
            if self._ahead_bytes > MAX_AHEAD_BYTES:
                self.cut()
                return
            self._has_progress = False
            self._feed(piece)
            self._unfinished_bytes = 0 if self._has_progress else self._unfinished_bytes + len(piece)
            if self._refusal is None and self._unfinished_bytes > MAX_HEAD_BYTES:
                is_url = len(self.url) > MAX_HEAD_BYTES // 2
                self._refuse(HTTPStatus.REQUEST_URI_TOO_LONG if is_url else HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    def on_message_begin(self) -> None:
        if self._is_head_again:
            return
        super().on_message_begin()
        self._fields = 0
        self._is_head_complete = False

    def on_url(self, url: bytes) -> None:
        if not self._is_head_again:
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._is_head_again:
            return
        self._fields += 1
        if self._fields > MAX_FIELDS:
            raise self._refused(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        if not self._is_head_complete:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._has_progress = True
        if self._is_head_again:
            self._is_head_again = False
            return
        self._is_head_complete = True
        if len(self.pipeline) >= MAX_PIPELINED:
            raise self._refused(HTTPStatus.TOO_MANY_REQUESTS)
        if is_too_long(self.url):
            raise self._refused(HTTPStatus.REQUEST_URI_TOO_LONG)
        # It raises for an address that it cannot read.
        super().on_headers_complete()
        if self.parser.should_upgrade() and self._should_upgrade():
            if not self._is_idle():
                # The answer to an earlier request would go into the stream of the socket.
                raise self._refused(HTTPStatus.BAD_REQUEST)
            return
        self._stop_head_timer()
        if not self.flow.write_paused:
            self._limits.works(self)

    def on_body(self, body: bytes) -> None:
        self._has_progress = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._has_progress = True
        if not (self.parser.should_upgrade() and self._framing()):
            super().on_message_complete()

    def on_response_complete(self) -> None:
        if self.flow.write_paused and self.pipeline:
            # The next answer is made when this one is read: else it would wait in memory beside it.
            self._is_next_postponed = True
            return
        super().on_response_complete()
        if self._is_idle():
            self._limits.rests(self)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._socket is not None:
            self._socket.pause_writing()
        self._limits.stalls(self, self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        super().resume_writing()
        self._limits.flows(self)
        if self._socket is not None:
            self._limits.works(self)
            self._socket.resume_writing()
            return
        if self._is_next_postponed:
            self._is_next_postponed = False
            self.on_response_complete()
        if not self._is_idle():
            self._limits.works(self)

    def timeout_keep_alive_handler(self) -> None:
        # To close while an answer is still to be read would wait until the client has read it, which it may never do.
        self._is_overdue = bool(self.transport.get_write_buffer_size())
        if not self._is_overdue:
            super().timeout_keep_alive_handler()

    def look(self, now: float) -> None:
        if not self.transport.get_write_buffer_size():
            self._unread_bytes = None
            if self._is_overdue:
                self.timeout_keep_alive_handler()
            return
        unread = self._unread()
        if unread != self._unread_bytes:
            # Slow clients read, too.
            self._unread_bytes, self._read_at = unread, now
        elif now - self._read_at >= self._limits.stall_seconds:
            self.cut()

    def _feed(self, piece: memoryview) -> None:
        """As uvicorn does, but with an answer that has an end, and without a line in the log, which anybody could fill."""
        while len(piece):
            try:
                self.parser.feed_data(piece)
                return
            except httptools.HttpParserError:
                # The parser stops at an error of ours as at one of the sender's.
                self._refuse(self._refusal or HTTPStatus.BAD_REQUEST)
                return
            except httptools.HttpParserUpgrade as upgrade:
                # The parser leaves what follows to us.
                piece = piece[upgrade.args[0] :]
                if self._should_upgrade():
                    self._become_socket(piece)
                    return
                # To what we do not speak, as Java's client asks with each request: it is answered like any other. The parser
                # has left its body aside, too, and takes it after a head that frames it in the same way.
                if framing := self._framing():
                    self._is_head_again = True
                    piece = memoryview(b"POST / HTTP/1.1\r\n" + framing + b"\r\n" + piece)

    def _framing(self) -> bytes:
        """The fields that say where the body of the last request ends; empty when it has none."""
        fields = (field for field in self.headers if field[0] in (b"content-length", b"transfer-encoding"))
        return b"".join(b"%b: %b\r\n" % field for field in fields)

    def _become_socket(self, rest: memoryview) -> None:
        """uvicorn puts a protocol for WebSockets in our place. It gets all that comes, and we go on counting and looking."""
        self._stop_head_timer()
        self.handle_websocket_upgrade()
        self._socket = cast(asyncio.Protocol, self.transport.get_protocol())
        self.transport.set_protocol(self)
        self._limits.lasts(self)
        if len(rest) and not self.transport.is_closing():
            self._socket.data_received(bytes(rest))

    def _unread(self) -> int:
        """Bytes of an answer that wait here or in the kernel, as far as it tells."""
        try:
            outgoing = ioctl(self.transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
        except OSError:
            outgoing = bytes(4)
        return self.transport.get_write_buffer_size() + int.from_bytes(outgoing, sys.byteorder)

    def _is_idle(self) -> bool:
        return self.cycle is None or (self.cycle.response_complete and not self.pipeline)

    def _is_ahead(self) -> bool:
        """Whether what comes now belongs to a request after one that is still to be answered."""
        if self.pipeline:
            return True
        return self.cycle is not None and not self.cycle.response_complete and not self.cycle.more_body

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
        """Sends the refusal, and reads on for a moment: to close on unread bytes is a reset, and the answer would be lost."""
        self._refusal = status
        if not self._is_idle() or self.transport.is_closing():
            # An answer to an earlier request is on its way, and this one may not be put into it.
            self.cut()
            return
        self.transport.write(refusal(status))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._stop_head_timer()
        self._head_timer = self.loop.call_later(_LINGER_SECONDS, self.cut)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._in_hand = cycle
        extensions: dict[str, Any] = cycle.scope.setdefault("extensions", {})
        extensions[RESTS] = {"now": partial(self._limits.rests, self)}
        extensions[PEER] = Peer(self.client[0] if self.client else None, self.scheme or "http")
        super()._start_asgi_task(cycle, app)

    def _disconnect(self) -> None:
        """Tells each request that its client is gone: uvicorn tells the last one only, and others end in a traceback."""
        for cycle in (self._in_hand, *(cycle for cycle, _ in self.pipeline)):
            if cycle is not None and not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()
