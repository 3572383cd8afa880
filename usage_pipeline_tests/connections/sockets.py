"""Connections as a hostile client opens them, and how many files this process may open for them."""

import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager

HEAD = b"GET / HTTP/1.1\r\nHost: x\r\n"


def connected(port: int, address: str = "127.0.0.1") -> socket.socket:
    """A connection to a port of this machine, from this address."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=60, source_address=(address, 0))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def deaf(port: int, address: str = "127.0.0.1") -> socket.socket:
    """A connection whose answers wait in the service: it has a small window, and packets as of a real network."""
    connection = socket.socket()
    connection.settimeout(60)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2_048)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1_400)
    connection.bind((address, 0))
    connection.connect(("127.0.0.1", port))
    return connection


def is_closed(connection: socket.socket) -> bool:
    """Whether the other side has ended a connection on which it has nothing to say."""
    connection.setblocking(False)
    try:
        return connection.recv(65_536, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


@contextmanager
def files(count: int) -> Iterator[None]:
    """This process may open so many."""
    before, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(before, count), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (before, hard))
