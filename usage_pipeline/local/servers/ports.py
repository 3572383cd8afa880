"""Finds free loopback ports, and checks whether one is in use."""

import socket

LOOPBACK = "127.0.0.1"


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


def is_listening(port: int, *, timeout_seconds: float = 1) -> bool:
    """Whether someone accepts connections on this loopback port."""
    try:
        with socket.create_connection((LOOPBACK, port), timeout=timeout_seconds):
            return True
    except OSError:
        return False


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
