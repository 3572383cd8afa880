"""Finds free loopback ports, and checks whether a port or a socket in the file system is in use."""

import socket
from pathlib import Path

LOOPBACK = "127.0.0.1"
# macOS allows 104 bytes with the closing NUL, Linux 108.
LONGEST_SOCKET_PATH = 103


def can_listen_on(port: int) -> bool:
    """Whether a server can listen on this loopback port now. Another process may take it afterwards."""
    with socket.socket() as probe:
        # As servers do: connections of the last one that linger in TIME_WAIT are no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def is_listening(place: int | Path, *, timeout_seconds: float = 1) -> bool:
    """Whether someone accepts connections on this loopback port, or on the socket with this path."""
    is_port = isinstance(place, int)
    with socket.socket(socket.AF_INET if is_port else socket.AF_UNIX) as probe:
        probe.settimeout(timeout_seconds)
        try:
            probe.connect((LOOPBACK, place) if is_port else str(place))
        except OSError:
            return False
    return True


def free_port() -> int:
    """A loopback port that nobody uses now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def first_free_port(wanted: int) -> int:
    """`wanted`, or the next higher loopback port that is free. Raises OSError when there is none."""
    for port in range(wanted, 65_536):
        if can_listen_on(port):
            return port
    raise OSError(f"no free port from {wanted} on")
