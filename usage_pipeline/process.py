"""The name of this process, for ledgers, claims and logs."""

import os
import socket


def process_name() -> str:
    """The host name and the process id, as `host:123`."""
    return f"{socket.gethostname()}:{os.getpid()}"
