"""A proxy before shards, as Redis Enterprise and Redis Cloud have one: one address, no cluster, and CROSSSLOT for two slots.

A stand-in of ours: it passes everything on to one server, but refuses a command whose keys have different slots, as those do.
"""

import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import hiredis
from redis.crc import key_slot

from usage_pipeline.local.servers.ports import LOOPBACK

_ALL = ("UNLINK", "DEL", "MGET", "EXISTS", "TOUCH")
_TWO = ("RENAME", "RENAMENX", "COPY", "SMOVE")
_REFUSAL = b"-CROSSSLOT Keys in request don't hash to the same slot\r\n"


def keys_of(words: list[bytes]) -> list[bytes]:
    """Those of a command, as far as they matter here."""
    name = words[0].decode().upper()
    if name in ("EVAL", "EVALSHA"):
        return words[3 : 3 + int(words[2])]
    if name in _ALL:
        return words[1:]
    return words[1:3] if name in _TWO else words[1:2]


class _Refuses(socketserver.BaseRequestHandler):
    port: int

    def handle(self) -> None:
        reader = hiredis.Reader()
        with socket.create_connection((LOOPBACK, self.port)) as server, suppress(OSError):
            while data := self.request.recv(65_536):
                reader.feed(data)
                while (words := reader.gets()) is not False:
                    self.request.sendall(self._answer(server, words))

    def _answer(self, server: socket.socket, words: list[bytes]) -> bytes:
        if len({key_slot(key) for key in keys_of(words)}) > 1:
            return _REFUSAL
        server.sendall(hiredis.pack_command(tuple(words)))
        # The bytes of one whole answer: a reader says when it is complete.
        answer, parsed = b"", hiredis.Reader()
        while True:
            piece = server.recv(65_536)
            if not piece:
                raise ConnectionError("the server has gone")
            answer += piece
            parsed.feed(piece)
            if parsed.gets() is not False:
                return answer


@contextmanager
def sharded(port: int) -> Iterator[str]:
    """The URL of a proxy before the server on this port."""
    handler = type("Handler", (_Refuses,), {"port": port})
    with socketserver.ThreadingTCPServer((LOOPBACK, 0), handler) as proxy:
        proxy.daemon_threads = True
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        try:
            yield f"redis://{LOOPBACK}:{proxy.server_address[1]}/0"
        finally:
            proxy.shutdown()
