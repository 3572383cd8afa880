"""Passwords that change: a command or a file gives the current one, which is asked for again when a login fails."""

import logging
import os
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from pathlib import Path

import psycopg

from usage_pipeline.settings import Settings

log = logging.getLogger(__name__)

# The programs of clouds take seconds. A sensor's tick has a minute.
_COMMAND_SECONDS = 15.0
_MOST_BYTES = 65_536
# A server that refuses everybody must not have the command run for each of a hundred connections.
_PAUSE_SECONDS = 1.0


class PasswordUnavailable(psycopg.OperationalError):
    """Nobody gives the password. The message is one line, and has nothing of what was given."""


class ChangingPassword:
    """The password that `read` gives, kept until it is refused. For any number of threads."""

    def __init__(self, read: Callable[[], str]) -> None:
        self._read = read
        self._lock = threading.Lock()
        self._current: str | None = None
        self._read_at = 0.0

    def current(self) -> str:
        """The password that was good last, or is read now. Raises PasswordUnavailable."""
        with self._lock:
            return self._renew() if self._current is None else self._current

    def another_than(self, refused: str) -> str | None:
        """What to try instead of a password that was refused; None where there is no other one. Raises PasswordUnavailable."""
        with self._lock:
            # Another thread may have renewed it meanwhile.
            if self._current == refused and time.monotonic() - self._read_at >= _PAUSE_SECONDS:
                self._renew()
            return None if self._current == refused else self._current

    def _renew(self) -> str:
        self._current = self._read()
        self._read_at = time.monotonic()
        return self._current


def changing_password(settings: Settings) -> ChangingPassword | None:
    """What DATABASE_PASSWORD_COMMAND or DATABASE_PASSWORD_FILE gives; None where neither is set."""
    if settings.database_password_command is not None:
        return _of_command(settings.database_password_command.get_secret_value())
    if settings.database_password_file is not None:
        return _of_file(settings.database_password_file)
    return None


# One for all connections of a process, so that a password that is good is not asked for again.
@cache
def _of_command(command: str) -> ChangingPassword:
    return ChangingPassword(partial(_output_of, tuple(shlex.split(command))))


@cache
def _of_file(path: str) -> ChangingPassword:
    return ChangingPassword(partial(_content_of, Path(path)))


def _content_of(path: Path) -> str:
    name = "DATABASE_PASSWORD_FILE"
    try:
        with path.open("rb") as file:
            return _one_line(name, file.read(_MOST_BYTES))
    except OSError as error:
        raise PasswordUnavailable(f"{name}: expected a file with the password, came: {error.strerror}") from None


def _output_of(command: tuple[str, ...]) -> str:
    """What it prints. Its arguments and its errors are not repeated: both may hold secrets."""
    name = "DATABASE_PASSWORD_COMMAND"
    hint = "run it in a shell as the same user to see why"
    try:
        process = subprocess.Popen(  # noqa: S603  # the operator's own
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        raise PasswordUnavailable(f"{name}: expected a program that can be run, came: {error.strerror}") from None
    with process:
        try:
            output, _ = process.communicate(timeout=_COMMAND_SECONDS)
        except subprocess.TimeoutExpired:
            raise PasswordUnavailable(
                f"{name}: expected the password within {_COMMAND_SECONDS:.0f} s, came none; {hint}"
            ) from None
        finally:
            # With what it has started: after a time-out, and also when a run is cancelled meanwhile.
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
    if process.returncode:
        raise PasswordUnavailable(
            f"{name}: expected the password, came none, and exit status {process.returncode}; {hint}"
        )
    return _one_line(name, output)


def _one_line(name: str, given: bytes) -> str:
    try:
        text = given.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        text = ""
    if not text or not text.isprintable() or len(given) >= _MOST_BYTES:
        raise PasswordUnavailable(f"{name}: expected one line of text, the password, came another output")
    return text
