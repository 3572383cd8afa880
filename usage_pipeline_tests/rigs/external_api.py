"""A real HTTP server that answers as told, byte by byte: what no framework would send, and what never comes."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from usage_pipeline.settings import Settings

Behaviour = Callable[["ExternalApi", socket.socket, int], None]


class ExternalApi:
    """Serves /posts/{id}. `script` holds behaviours for the next requests; afterwards each post is answered."""

    def __init__(self) -> None:
        self.script: list[Behaviour] = []
        self.otherwise: Behaviour = post
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.in_hand = 0
        self.most_in_hand = 0
        self.released = threading.Event()
        self._lock = threading.Lock()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listening.getsockname()[1]}"

    @property
    def asked(self) -> list[int]:
        """The posts that were asked for, in order."""
        return [int(path.rpartition("/")[2]) for path, _ in self.requests]

    def settings(self, settings: Settings, **changes: Any) -> Settings:
        """These settings with this server as the API."""
        return settings.model_copy(update={"external_api_base_url": self.url, **changes})

    def close(self) -> None:
        self.released.set()
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._acceptor.join(5)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            head = b""
            while b"\r\n\r\n" not in head:
                if not (piece := connection.recv(65_536)):
                    return
                head += piece
            first, *lines = head.decode().split("\r\n")
            path = first.split()[1]
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines if line)}
            with self._lock:
                self.requests.append((path, headers))
                behave = self.script.pop(0) if self.script else self.otherwise
                self.in_hand += 1
                self.most_in_hand = max(self.most_in_hand, self.in_hand)
            try:
                behave(self, connection, int(path.rpartition("/")[2]))
            finally:
                with self._lock:
                    self.in_hand -= 1


@contextmanager
def external_api() -> Iterator[ExternalApi]:
    api = ExternalApi()
    try:
        yield api
    finally:
        api.close()


def document(post_id: int) -> dict[str, Any]:
    return {"userId": post_id % 10, "id": post_id, "title": f"Title {post_id}", "body": f"Text of {post_id}"}


def response(status: int, body: bytes = b"{}", *headers: str, length: int | None = None) -> bytes:
    lines = [f"HTTP/1.1 {status} Whatever", "Content-Type: application/json", "Connection: close", *headers]
    lines.append(f"Content-Length: {len(body) if length is None else length}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def post(api: ExternalApi, connection: socket.socket, post_id: int) -> None:
    connection.sendall(response(200, json.dumps(document(post_id)).encode()))


def status(code: int, *headers: str) -> Behaviour:
    return lambda api, connection, post_id: connection.sendall(response(code, b"{}", *headers))


def body(content: bytes, *headers: str) -> Behaviour:
    return lambda api, connection, post_id: connection.sendall(response(200, content, *headers))


def hang_up(api: ExternalApi, connection: socket.socket, post_id: int) -> None:
    """Closes without a word."""


def stall(api: ExternalApi, connection: socket.socket, post_id: int) -> None:
    """Never answers."""
    api.released.wait(30)


def half(api: ExternalApi, connection: socket.socket, post_id: int) -> None:
    """Breaks off in the middle of the body."""
    whole = json.dumps(document(post_id)).encode()
    connection.sendall(response(200, whole[:20], length=len(whole)))


def no_http(api: ExternalApi, connection: socket.socket, post_id: int) -> None:
    connection.sendall(b"\x16\x03\x01 what is this\r\n\r\n")


def late(api: ExternalApi, connection: socket.socket, post_id: int) -> None:
    """Answers well, seconds too late for a hasty client."""
    api.released.wait(4)
    post(api, connection, post_id)


def drip(api: ExternalApi, connection: socket.socket, post_id: int) -> None:
    """Answers well, a byte at a time: no single read takes long, the whole takes seconds."""
    whole = json.dumps(document(post_id)).encode()
    connection.sendall(response(200, b"", length=len(whole)))
    for byte in whole:
        api.released.wait(0.06)
        connection.sendall(bytes([byte]))


def too_much(api: ExternalApi, connection: socket.socket, post_id: int) -> None:
    """Spaces without an end."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
    while not api.released.is_set():
        connection.sendall(b" " * 65_536)
