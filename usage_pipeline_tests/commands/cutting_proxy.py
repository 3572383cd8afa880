"""A TCP proxy before PostgreSQL that ends each connection after so many bytes: a server that dies in the middle."""

import socket
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self

from usage_pipeline.local.servers.ports import LOOPBACK
from usage_pipeline.local.servers.postgres import RunningPostgres

_READ_BYTES = 4096


class CuttingProxy:
    """Each connection gets `after_bytes` of the server's answers, and no more."""

    def __init__(self, server: RunningPostgres) -> None:
        self.after_bytes = 0
        self._server = str(server.socket_folder / ".s.PGSQL.5432")
        self._listener = socket.create_server((LOOPBACK, 0), backlog=100)
        self._thread = threading.Thread(target=self._accept, daemon=True)

    def url(self, database: str) -> str:
        return f"postgresql://postgres@{LOOPBACK}:{self._listener.getsockname()[1]}/{database}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Wakes up `accept`.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            server.connect(self._server)
            for source, target, most in ((client, server, None), (server, client, self.after_bytes)):
                threading.Thread(target=_pass_on, args=(source, target, most), daemon=True).start()


def _pass_on(source: socket.socket, target: socket.socket, most: int | None) -> None:
    left = most
    with suppress(OSError):
        while left is None or left > 0:
            data = source.recv(_READ_BYTES if left is None else min(_READ_BYTES, left))
            if not data:
                break
            target.sendall(data)
            left = None if left is None else left - len(data)
    for one in (source, target):
        with suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
        if most is not None:
            one.close()
