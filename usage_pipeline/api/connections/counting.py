"""How many connections there are, whose they are, and how much they have not read of their answers."""

import asyncio
import logging
import resource
from collections import Counter, defaultdict
from ipaddress import IPv4Address, ip_address, ip_network
from typing import Protocol

from usage_pipeline.settings import Settings

# Answers that wait for their readers, of all that are stalled.
MAX_UNSENT_BYTES = 32 * 2**20
# Listening sockets, PostgreSQL, Redis, logs, and connections that are accepted before they are counted.
RESERVED_FILES = 192
# An episode of too many connections ends, and the next one is told again, below this share of the limit.
_OVER_AT = 0.9
# What a customer of a network gets at least (RFC 6177).
_IPV6_PREFIX = 64
# Stands for all stalled connections in what was told; no address is like it.
_UNSENT = "unsent"
# Before an address: its WebSockets.
_SOCKETS = "sockets "
_LOOK_SECONDS = 1.0
_log = logging.getLogger(__name__)


class Connection(Protocol):
    """What a connection does when it is asked to."""

    def cut(self) -> None:
        """Ends it now, whatever is still to be sent."""

    def look(self, now: float) -> None:
        """Cuts it if its client has read nothing of an answer for too long."""


class Connections:
    """The connections of one server: keeps their number, and what they have not read, within the limits.

    A connection is idle as long as it waits for a whole head. When there are too many, of all or of one address, the one that
    has been idle longest is closed for the new one: half-sent requests keep nobody out. If all are busy, it gets a 503.
    """

    def __init__(self, settings: Settings, most: int | None = None) -> None:
        self.most = settings.max_connections if most is None else most
        self.most_per_address = min(settings.max_connections_per_address, self.most)
        self.head_seconds = settings.head_timeout_seconds
        self.stall_seconds = settings.body_timeout_seconds
        self.open: dict[Connection, str] = {}
        # By address, the longest idle first; "" is all together.
        self._idle: defaultdict[str, dict[Connection, None]] = defaultdict(dict)
        # WebSockets in the same way, the oldest first.
        self._lasting: defaultdict[str, dict[Connection, None]] = defaultdict(dict)
        self._of_address: Counter[str] = Counter()
        # Whose client does not read its answer, and how many bytes of it wait; the longest stalled first.
        self._unsent: dict[Connection, int] = {}
        # Of which addresses it was told that they have too many; "" is all together.
        self._told: set[str] = set()
        self._next_look: asyncio.TimerHandle | None = None

    def admit(self, connection: Connection, address: str) -> bool:
        """Counts a new connection. False when there is no place for it: all others are busy."""
        self.open[connection] = address
        self._of_address[address] += 1
        if self._next_look is None:
            self._look_later()
        self.rests(connection)
        if self._of_address[address] > self.most_per_address < self.most:
            self._tell(address, self.most_per_address, "MAX_CONNECTIONS_PER_ADDRESS")
            return self._make_place(connection, address)
        if len(self.open) > self.most:
            self._tell("", self.most, "MAX_CONNECTIONS")
            return self._make_place(connection, "")
        return True

    def rests(self, connection: Connection) -> None:
        """From now on the connection is idle."""
        if connection in self.open:
            for whose in {"", self.open[connection]}:
                self._idle[whose][connection] = None

    def works(self, connection: Connection) -> None:
        """A request is in hand."""
        for whose in {"", self.open.get(connection, "")}:
            self._idle[whose].pop(connection, None)

    def lasts(self, connection: Connection) -> None:
        """It is a WebSocket from now on."""
        if connection not in self.open:
            return
        self.works(connection)
        for whose, most in ((self.open[connection], self.most_per_address), ("", self.most)):
            sockets = self._lasting[whose]
            sockets[connection] = None
            if len(sockets) > max(1, most // 2):
                self._tell_sockets(whose, len(sockets) - 1)
                next(iter(sockets)).cut()

    def stalls(self, connection: Connection, size: int) -> None:
        """So many bytes of an answer wait for the client, which does not read. It is as good as idle.

        When all together are too many, those that have waited longest are cut.
        """
        if connection not in self.open:
            return
        self.rests(connection)
        self._unsent[connection] = size
        while sum(self._unsent.values()) > MAX_UNSENT_BYTES:
            self._tell_unsent()
            next(iter(self._unsent)).cut()

    def flows(self, connection: Connection) -> None:
        """The client reads its answer again."""
        self._unsent.pop(connection, None)

    def forget(self, connection: Connection) -> None:
        """The connection is over, or as good as over."""
        self._unsent.pop(connection, None)
        if connection not in self.open:
            return
        self.works(connection)
        address = self.open.pop(connection)
        for whose in {"", address}:
            self._lasting[whose].pop(connection, None)
            if len(self._lasting[whose]) < self.most_per_address // 2 * _OVER_AT:
                self._told.discard(_SOCKETS + whose)
        self._of_address[address] -= 1
        if self._of_address[address] < self.most_per_address * _OVER_AT:
            self._told.discard(address)
        if not self._of_address[address]:
            del self._of_address[address]
            if address:
                # Both have an entry: it was idle, and was looked for among the WebSockets.
                del self._idle[address], self._lasting[address]
        if len(self.open) < self.most * _OVER_AT:
            self._told.discard("")
        if not self._unsent:
            self._told.discard(_UNSENT)

    def _look_later(self) -> None:
        loop = asyncio.get_running_loop()
        self._next_look = loop.call_later(min(_LOOK_SECONDS, self.stall_seconds / 4), self._look, loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        """One watch over all, whatever a connection waits for: a timer for each cause would miss some causes."""
        self._next_look = None
        for connection in list(self.open):
            connection.look(loop.time())
        if self.open:
            self._look_later()

    def _make_place(self, newest: Connection, address: str) -> bool:
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

    def _tell_sockets(self, address: str, most: int) -> None:
        if _SOCKETS + address not in self._told:
            self._told.add(_SOCKETS + address)
            whose = f"from {address}" if address else "in all"
            _log.warning("%d WebSockets %s: for each more, the oldest is closed", most, whose)

    def _tell_unsent(self) -> None:
        if _UNSENT not in self._told:
            self._told.add(_UNSENT)
            _log.warning(
                "more than %d bytes of answers wait for clients that do not read; those that wait longest are cut",
                MAX_UNSENT_BYTES,
            )


def counted_as(address: str) -> str:
    """The address, or the network of an IPv6 one: whoever has one of its addresses has all of them."""
    try:
        known = ip_address(address)
    except ValueError:
        return address
    if isinstance(known, IPv4Address):
        return address
    return str(known.ipv4_mapped or ip_network((known, _IPV6_PREFIX), strict=False))


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
