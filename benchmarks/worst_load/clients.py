"""What the clients do, each a process of its own: each keeps one limit of the service full until it is told to end.

Each notes what it saw as counts by name. Addresses of loopback stand for different machines.
"""

import http.client
import random
import select
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.synchronize import Event

from benchmarks.worst_load.bodies import Body
from usage_pipeline.api.connections.refusals import MAX_FIELDS, MAX_HEAD_BYTES, MAX_PIPELINED
from usage_pipeline.local.servers.ports import LOOPBACK

Seen = Counter[str]
# Of a request that waits for its turn, the time to store it included.
_TIMEOUT_SECONDS = 120


def half_heads(port: int, ends: Event, addresses: Sequence[str], each: int) -> Seen:
    """Connections with all but the end of a head that is as large as may be, again when they are closed."""
    field = b"a: " + b"x" * (MAX_HEAD_BYTES // MAX_FIELDS - 8) + b"\r\n"
    head = b"GET / HTTP/1.1\r\nHost: x\r\n" + field * (MAX_FIELDS - 3)
    assert len(head) < MAX_HEAD_BYTES
    return _held(port, ends, addresses, each, lambda: head, receive_bytes=None)


def unread(port: int, ends: Event, addresses: Sequence[str], each: int, path: str, token: str) -> Seen:
    """Connections that ask for a large answer as often as they may, and read nothing."""
    lines = [f"GET {path} HTTP/1.1", "Host: x", *([f"Authorization: Bearer {token}"] if token else [])]
    head = ("\r\n".join(lines) + "\r\n\r\n").encode() * MAX_PIPELINED
    return _held(port, ends, addresses, each, lambda: head, receive_bytes=4_096)


def strangers(port: int, ends: Event, addresses: Sequence[str], each: int) -> Seen:
    """Invented tokens, as fast as they are refused."""

    def one(connection: http.client.HTTPConnection, seen: Seen) -> None:
        token = f"upt_{random.randbytes(6).hex()}_{random.randbytes(32).hex()[:43]}"
        connection.request("GET", "/api/usage/summary", headers={"Authorization": f"Bearer {token}"})
        _answered(connection, seen)

    return _loops(port, ends, [one] * (len(addresses) * each), addresses, pause_seconds=0.05)


def readers(port: int, ends: Event, addresses: Sequence[str], paths: Sequence[tuple[str, str]]) -> Seen:
    """Reads each of the answers (path and token) to its end, again and again."""

    def reading(path: str, token: str) -> Callable[[http.client.HTTPConnection, Seen], None]:
        def one(connection: http.client.HTTPConnection, seen: Seen) -> None:
            connection.request("GET", path, headers={"Authorization": f"Bearer {token}"} if token else {})
            _answered(connection, seen, path.partition("?")[2] or path)

        return one

    return _loops(port, ends, [reading(*one) for one in paths], addresses, pause_seconds=0.1)


def senders(port: int, ends: Event, addresses: Sequence[str], bodies: Sequence[tuple[Body, str]]) -> Seen:
    """Sends each body with its token, again and again."""

    def sending(body: Body, token: str) -> Callable[[http.client.HTTPConnection, Seen], None]:
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
        if body.is_gzip:
            headers["Content-Encoding"] = "gzip"

        def one(connection: http.client.HTTPConnection, seen: Seen) -> None:
            connection.request("POST", body.path, body=body.content, headers=headers)
            _answered(connection, seen, body.name)

        return one

    return _loops(port, ends, [sending(*one) for one in bodies], addresses, pause_seconds=0.2)


def slow_senders(port: int, ends: Event, addresses: Sequence[str], each: int, path: str, tokens: Sequence[str]) -> Seen:
    """Keeps the places of tokens: bodies that come slowly."""
    whose = iter(range(10**9))

    def head() -> bytes:
        token = tokens[next(whose) % len(tokens)]
        return (
            f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 5000\r\n"
            f"Authorization: Bearer {token}\r\n\r\n["
        ).encode()

    return _held(port, ends, addresses, each, head, receive_bytes=None, more=b" ")


def _held(
    port: int,
    ends: Event,
    addresses: Sequence[str],
    each: int,
    begin: Callable[[], bytes],
    *,
    receive_bytes: int | None,
    more: bytes = b"",
) -> Seen:
    """Keeps so many connections of each address that have sent `begin`, and send `more` every second."""
    seen: Seen = Counter()
    held: dict[int, socket.socket] = {}
    wanted = [address for address in addresses for _ in range(each)]
    while not ends.is_set():
        began_at = time.monotonic()
        for place, address in enumerate(wanted):
            if ends.is_set():
                break
            connection = held.get(place)
            if connection is not None and not _is_over(connection, seen, more, reads=receive_bytes is None):
                continue
            if connection is not None:
                connection.close()
                del held[place]
            with suppress(OSError):
                held[place] = _connected(port, address, begin(), receive_bytes)
                seen["opened"] += 1
        ends.wait(max(0.0, 1.0 - (time.monotonic() - began_at)))
    seen["held at the end"] = len(held)
    return seen


def _connected(port: int, address: str, begin: bytes, receive_bytes: int | None) -> socket.socket:
    connection = socket.socket()
    if receive_bytes is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    connection.bind((address, 0))
    connection.settimeout(5)
    connection.connect((LOOPBACK, port))
    connection.sendall(begin)
    connection.setblocking(False)
    return connection


def _is_over(connection: socket.socket, seen: Seen, more: bytes, *, reads: bool) -> bool:
    """Whether the service has ended it. What it said first is counted by its status."""
    if not reads:
        # To look at what came would be to read it.
        poll = select.poll()
        poll.register(connection, select.POLLRDHUP)
        is_over = bool(poll.poll(0))
        seen["cut"] += is_over
        return is_over
    try:
        if more:
            connection.send(more)
        came = connection.recv(4_096)
    except BlockingIOError:
        return False
    except OSError:
        seen["cut"] += 1
        return True
    seen[came[9:12].decode(errors="replace") if came else "closed"] += 1
    return True


def _loops(
    port: int,
    ends: Event,
    works: Sequence[Callable[[http.client.HTTPConnection, Seen], None]],
    addresses: Sequence[str],
    *,
    pause_seconds: float,
) -> Seen:
    """Runs each piece of work in a thread of its own, again and again."""
    every: list[Seen] = [Counter() for _ in works]

    def loop(work: Callable[[http.client.HTTPConnection, Seen], None], address: str, seen: Seen) -> None:
        connection = http.client.HTTPConnection(LOOPBACK, port, timeout=_TIMEOUT_SECONDS, source_address=(address, 0))
        while not ends.is_set():
            try:
                work(connection, seen)
            except (OSError, http.client.HTTPException) as error:
                seen[type(error).__name__] += 1
                connection.close()
            ends.wait(pause_seconds)
        connection.close()

    threads = [
        threading.Thread(target=loop, args=(work, addresses[place % len(addresses)], every[place]), daemon=True)
        for place, work in enumerate(works)
    ]
    for thread in threads:
        thread.start()
    ends.wait()
    for thread in threads:
        thread.join(10)
    return sum((one.copy() for one in every), Counter())


def _answered(connection: http.client.HTTPConnection, seen: Seen, name: str = "") -> None:
    answer = connection.getresponse()
    while answer.read(2**20):
        pass
    seen[f"{name} {answer.status}".strip()] += 1


def addresses(first: int, count: int) -> Iterator[str]:
    """Addresses of loopback, as of different machines."""
    yield from (f"127.0.1.{number}" for number in range(first, first + count))
