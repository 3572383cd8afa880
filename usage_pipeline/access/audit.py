"""The audit log: a JSON line for each request that was refused, by the HTTP service or before the Dagster UI. It never has a
token or a password.

It is bounded, so that who is refused often fills no disk, and hides nobody else. In WINDOW_SECONDS there are at most
LINES_OF_A_KIND for the same address, token and status, LINES for requests with a proven token, and LINES for all others.
What is left out is counted.
"""

import asyncio
import fcntl
import json
import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from ipaddress import ip_address

from usage_pipeline.settings import Settings

WINDOW_SECONDS = 10.0
LINES_OF_A_KIND = 5
LINES = 50
MOST_FILE_BYTES = 64 * 2**20
_MOST_CHARACTERS = 300
_log = logging.getLogger(__name__)


class AuditLog:
    """Writes on one event loop. `write` takes a line and raises nothing; `clock` gives epoch seconds."""

    def __init__(self, write: Callable[[str], None], clock: Callable[[], float] = time.time) -> None:
        self._write = write
        self._clock = clock
        self._window_ends_at = 0.0
        self._kinds: Counter[tuple[object, ...]] = Counter()
        self._lines: Counter[bool] = Counter()
        self._left_out: Counter[bool] = Counter()
        self._timer: asyncio.TimerHandle | None = None

    @classmethod
    def of(cls, settings: Settings) -> "AuditLog":
        """An audit log to AUDIT_LOG, or to standard error. It opens nothing yet."""
        return cls(_to_stderr if settings.audit_log is None else _File(settings.audit_log).write)

    def refused(
        self,
        host: str | None,
        route: str,
        status: int,
        reason: str,
        *,
        token_id: str | None = None,
        is_proven: bool = False,
    ) -> None:
        """Notes a refusal. `host` is the client's address; another text there is left out. `is_proven`: it knew its secret."""
        address = _address_of(host)
        now = self._clock()
        if now >= self._window_ends_at:
            self._end_window(now)
        kind = (address, token_id, is_proven, status)
        if self._lines[is_proven] >= LINES or self._kinds[kind] >= LINES_OF_A_KIND:
            self._leave_out(is_proven)
            return
        self._lines[is_proven] += 1
        self._kinds[kind] += 1
        said: dict[str, object] = {
            "address": address,
            "token_id": token_id,
            "route": route,
            "status": status,
            "reason": reason,
        }
        self._line(now, said)

    def close(self) -> None:
        """Writes how many were left out."""
        self._end_window(self._clock())

    def _leave_out(self, is_proven: bool) -> None:
        self._left_out[is_proven] += 1
        if self._timer is None:
            # Nobody may be refused any more.
            self._timer = asyncio.get_running_loop().call_later(WINDOW_SECONDS, self.close)

    def _end_window(self, now: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._left_out:
            self._line(now, {"left_out": {"with_a_token": self._left_out[True], "others": self._left_out[False]}})
        self._window_ends_at = now + WINDOW_SECONDS
        for counter in (self._kinds, self._lines, self._left_out):
            counter.clear()

    def _line(self, now: float, members: dict[str, object]) -> None:
        at = datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        short = {name: value[:_MOST_CHARACTERS] if isinstance(value, str) else value for name, value in members.items()}
        # In ASCII: no control character of a terminal gets through.
        self._write(json.dumps({"time": at, **short}) + "\n")


class _File:
    """Appends to a file that several processes may share, and renames it to `….1` when it is full."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._descriptor: int | None = None
        self._is_broken = False

    def write(self, line: str) -> None:
        try:
            # In one piece, so that lines of several processes do not mix.
            os.write(self._opened(), line.encode())
            self._is_broken = False
        except OSError as error:
            if not self._is_broken:
                _log.warning("AUDIT_LOG cannot be written, its lines go to standard error: %s", error.strerror)
            self._is_broken = True
            _to_stderr(line)

    def _opened(self) -> int:
        descriptor = self._current() or self._open()
        if os.fstat(descriptor).st_size < MOST_FILE_BYTES:
            return descriptor
        with suppress(BlockingIOError):  # another process is about to rename it
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if self._current() is not None:
                os.replace(self._path, f"{self._path}.1")
        return self._current() or self._open()

    def _current(self) -> int | None:
        """The open file, if it is still the one of that name."""
        if self._descriptor is None:
            return None
        with suppress(FileNotFoundError):
            if os.path.samestat(os.stat(self._path), os.fstat(self._descriptor)):
                return self._descriptor
        os.close(self._descriptor)
        self._descriptor = None
        return None

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        self._descriptor = os.open(self._path, flags, 0o600)
        return self._descriptor


def _to_stderr(line: str) -> None:
    with suppress(OSError, ValueError):
        sys.stderr.write(line)
        sys.stderr.flush()


def _address_of(host: str | None) -> str | None:
    """None if there is none, or if what a proxy said is no address."""
    try:
        return str(ip_address(host)) if host else None
    except ValueError:
        return None
