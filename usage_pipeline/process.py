"""Which process this is, for ledgers, claims and logs."""

import os
import socket


def process_name() -> str:
    """Host and process id."""
    return f"{socket.gethostname()}:{os.getpid()}"
