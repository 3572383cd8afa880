"""The names of this process and of the person who runs it, for ledgers, claims and logs."""

import getpass
import os
import socket


def process_name() -> str:
    """The host name and the process id, as `host:123`."""
    return f"{socket.gethostname()}:{os.getpid()}"


def person_name() -> str:
    """The user and the host name, as `ana@host`. A user without a name (a container's) has its number."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"
