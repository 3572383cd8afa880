"""A TCP proxy before Redis that loses answers, delays requests past their repetition, and cuts connections."""

import selectors
import socket
import threading
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self

from usage_pipeline.local.servers.ports import LOOPBACK

# What becomes of a request that comes now.
Fault = Literal["none", "lose answers", "delay requests", "cut after the request", "cut before the request"]
FAULTS: tuple[Fault, ...] = (
    *("none", "lose answers", "delay requests", "cut after the request"),
    "cut before the request",
)


@dataclass(eq=False, slots=True)
class _Pair:
    """A client's connection and the one to the server; the client's may be gone while the server's has requests to come."""

    client: socket.socket | None
    server: socket.socket
    delayed: bytes = b""
    answers_pass: bool = True


class FaultyLink:
    """In a thread of its own. What was delayed reaches the server at `release`, also if its client has long given up."""

    def __init__(self, redis_port: int) -> None:
        self.fault: Fault = "none"
        self._redis_port = redis_port
        self._pairs: list[_Pair] = []
        self._selector = selectors.DefaultSelector()
        self._lock = threading.RLock()
        self._should_stop = False
        self._listener = socket.create_server((LOOPBACK, 0), backlog=200)
        self._thread = threading.Thread(target=self._serve, daemon=True)

    @property
    def url(self) -> str:
        return f"redis://{LOOPBACK}:{self._listener.getsockname()[1]}/0"

    def __enter__(self) -> Self:
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._should_stop = True
        self._thread.join(10)
        for pair in self._pairs:
            self._drop_client(pair)
            pair.server.close()
        self._listener.close()
        self._selector.close()

    def release(self) -> None:
        """Sends on what was delayed, in the order of the connections."""
        with self._lock:
            for pair in self._pairs:
                delayed, pair.delayed = pair.delayed, b""
                if delayed:
                    with suppress(OSError):
                        pair.server.sendall(delayed)

    def end_connections(self) -> None:
        """Sends on what was delayed, and ends all connections; the server has done everything when it has closed them."""
        self.release()
        with self._lock:
            for pair in self._pairs:
                self._drop_client(pair)
                with suppress(OSError):
                    pair.server.shutdown(socket.SHUT_WR)

    def _serve(self) -> None:
        while not self._should_stop:
            for key, _ in self._selector.select(0.05):
                with self._lock:
                    if key.data is None:
                        self._accept()
                    else:
                        pair, is_client = key.data
                        self._pass_on(pair, is_client)

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        server = socket.create_connection((LOOPBACK, self._redis_port))
        pair = _Pair(client, server)
        self._pairs.append(pair)
        self._selector.register(client, selectors.EVENT_READ, (pair, True))
        self._selector.register(server, selectors.EVENT_READ, (pair, False))

    def _pass_on(self, pair: _Pair, is_client: bool) -> None:
        source = pair.client if is_client else pair.server
        if source is None:
            return
        try:
            data = source.recv(65_536)
        except OSError:
            data = b""
        if not is_client:
            if not data:
                self._drop_client(pair)
                self._selector.unregister(pair.server)
                pair.server.close()
                self._pairs.remove(pair)
            elif pair.client is not None and pair.answers_pass:
                with suppress(OSError):
                    pair.client.sendall(data)
            return
        if not data:
            self._drop_client(pair)
            if not pair.delayed:
                with suppress(OSError):
                    pair.server.shutdown(socket.SHUT_WR)
            return
        if self.fault == "cut before the request":
            self._drop_client(pair)
            return
        if self.fault == "delay requests" or pair.delayed:
            pair.delayed += data
            return
        pair.answers_pass = pair.answers_pass and self.fault == "none"
        with suppress(OSError):
            pair.server.sendall(data)
        if self.fault == "cut after the request":
            self._drop_client(pair)

    def _drop_client(self, pair: _Pair) -> None:
        if pair.client is not None:
            self._selector.unregister(pair.client)
            pair.client.close()
            pair.client = None
