"""The names of this process and of its user, for ledgers, claims and logs."""

import getpass
import os
import socket


def process_name() -> str:
    """The host name and the process id, as `host:123`."""
    return f"{socket.gethostname()}:{os.getpid()}"


def user_name() -> str:
    """Who runs this process, as `user@host`. A user without a name is a number."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
