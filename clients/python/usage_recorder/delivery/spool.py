"""A file that has what is on its way to Redis, for the next recorder if this process is killed. POSIX only.

A line is written before each send, and for each record that waits; another says that a send is settled. Lines are not synced:
they survive the process, and not the machine. When nothing is on its way, the file has its first line alone.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from usage_recorder.commands import Family, Record
from usage_recorder.delivery import spool_lines
from usage_recorder.delivery.sends import Send
from usage_recorder.delivery.spool_lines import FORMAT, kept_line, send_line, settled_line

MOST_BYTES = 256 * 1024 * 1024
# A file is written anew when it is this much larger than twice what it is for.
_SLACK_BYTES = 1024 * 1024
# So often at most a call looks whether the file is still where it was.
LOOK_SECONDS = 1.0
_log = logging.getLogger(__name__)


class SpoolError(ValueError):
    """A spool file cannot be used. The message is one line that says why and what to do."""


class Spool:
    """The spool file of one recorder. Making it raises SpoolError. Later it raises nothing: what cannot be noted is logged."""

    def __init__(self, path: str | os.PathLike[str], *, is_cluster: bool, most_bytes: int = MOST_BYTES) -> None:
        self.path = Path(path)
        self._is_cluster = is_cluster
        self._most_bytes = most_bytes
        self._lock = threading.RLock()
        self._sends: dict[tuple[str, int, int], bytes] = {}
        self._kept: dict[int, bytes] = {}
        self._live_bytes = 0
        self._bytes = 0
        self._is_full = False
        # Whether a line was ever missing: what it said may still wait.
        self._has_gaps = False
        # Whether somebody took the file away, and it could not be written anew yet. Then it has nothing.
        self._is_lost = False
        self._next_look_at = 0.0
        self._identity = (0, 0)
        self._file: int | None = None
        self._lock_file: int | None = None
        try:
            self._lock_file = _locked(self.path)
            self._found = self._read()
        except OSError as error:
            self.close()
            raise SpoolError(f"spool file {self.path}: {error.strerror or error}") from None
        except BaseException:
            # The file may be moved away, and tried again in this process.
            self.close()
            raise

    def take_over(self) -> tuple[list[Send], list[Record]]:
        """What the recorder before left: sends without an answer, and records that were not sent."""
        return self._found

    def begin(self, sends: Iterable[Send], kept: Iterable[tuple[int, Record]]) -> None:
        """Begins the file anew, with these."""
        self._found = [], []
        for send in sends:
            self._add_send(send, send_line(send))
        for entry_id, record in kept:
            self._add_kept(entry_id, kept_line(entry_id, record))
        try:
            self._write_anew()
        except OSError as error:
            self.close()
            raise SpoolError(f"spool file {self.path}: {error.strerror or error}") from None

    def note_send(self, send: Send, entry_id: int | None = None, instead_of: Send | None = None) -> bool:
        """Before a send goes out. `entry_id`, `instead_of`: the kept record, or the send, that it is made of. Whether the file
        has it."""
        line = send_line(send, entry_id, instead_of)
        with self._lock:
            is_in_file = self._append(line, is_bounded=entry_id is None and instead_of is None)
            if is_in_file:
                self._add_send(send, line if entry_id is None and instead_of is None else send_line(send))
            if is_in_file or self._is_lost:
                # Also what a lost file had: when it is written anew, this was sent.
                self._live_bytes -= len(self._kept.pop(entry_id, b"")) if entry_id is not None else 0
                self._live_bytes -= len(self._sends.pop(instead_of.name, b"")) if instead_of is not None else 0
            return is_in_file

    def note_kept(self, entry_id: int, record: Record) -> bool:
        """An entry of what waits, as it is now. Whether the file has it."""
        line = kept_line(entry_id, record)
        with self._lock:
            if not self._append(line):
                return False
            self._add_kept(entry_id, line)
            return True

    def has_send(self, send: Send) -> bool:
        with self._lock:
            return send.name in self._sends and not self._is_lost

    def has_kept(self, entry_id: int) -> bool:
        """Whether the file has the entry, maybe with less than it is now, as one that waits."""
        with self._lock:
            return entry_id in self._kept and not self._is_lost

    def note_settled(self, send: Send) -> bool:
        """Redis has confirmed or refused the send, or it was given up. Whether the file has no such send, or knows that."""
        with self._lock:
            line = self._sends.pop(send.name, None)
            if line is None:
                return True
            self._live_bytes -= len(line)
            if self._is_lost:
                return True
            if self._sends or self._kept:
                return self._append(settled_line(send), is_bounded=False)
            return self._empty()

    def write_last(self, sends: Iterable[Send], kept: Iterable[tuple[int, Record]]) -> Counter[Family]:
        """Before the end: makes the file have just these. Returns the records that it could not take."""
        with self._lock:
            missing: Counter[Family] = Counter()
            self._look()
            if not (self._has_gaps or self._is_lost) or self._lock_file is None:
                return missing
            if self._is_lost:
                self._sends.clear()
                self._kept.clear()
                self._live_bytes = 0
            # Another thread may still wait for the answers to a send: the file goes on having it.
            before = self._sends.copy(), self._kept.copy()
            for send in sends:
                if send.name not in self._sends:
                    missing[send.family] += send.records
                    self._add_send(send, send_line(send))
            for entry_id, record in kept:
                line, known = kept_line(entry_id, record), self._kept.get(entry_id)
                if line != known:
                    missing[record.family] += record.records - (spool_lines.records_of(known) if known else 0)
                    self._add_kept(entry_id, line)
            try:
                if self._sends or self._kept:
                    self._write_anew()
                else:
                    self._empty()
            except OSError:
                self._sends, self._kept = before
                return missing
            return Counter()

    def close(self) -> None:
        """Another recorder may have the file from now on."""
        with self._lock:
            for file in (self._file, self._lock_file):
                if file is not None:
                    os.close(file)
            self._file = self._lock_file = None

    def leave_to_parent(self) -> None:
        """In a forked child, whose parent goes on with the file. (The lock is the parent's until that closes it.)"""
        self._lock = threading.RLock()
        self.close()

    def _add_send(self, send: Send, line: bytes) -> None:
        self._live_bytes += len(line) - len(self._sends.get(send.name, b""))
        self._sends[send.name] = line

    def _add_kept(self, entry_id: int, line: bytes) -> None:
        self._live_bytes += len(line) - len(self._kept.get(entry_id, b""))
        self._kept[entry_id] = line

    def _append(self, line: bytes, *, is_bounded: bool = True) -> bool:
        """`is_bounded`: whether there is more to keep than before. Other lines may exceed the bound: they make room."""
        if self._lock_file is None:
            return False
        self.look()
        if self._is_lost:
            self._has_gaps = True
            return False
        try:
            file = self._file
            if file is None or self._bytes + len(line) > 2 * self._live_bytes + _SLACK_BYTES:
                file = self._write_anew()
            if is_bounded and self._bytes + len(line) > self._most_bytes:
                raise OSError(0, f"it has its {self._most_bytes:,} bytes")
            if os.write(file, line) != len(line):
                raise OSError(0, "a line was written in part")
        except OSError as error:
            if not self._is_full:
                self._is_full = True
                _log.error(
                    "recorder: spool file %s: %s; new records are in memory alone, and those that it has wait",
                    self.path,
                    error.strerror or error,
                )
            self._has_gaps = True
            self._cut()
            return False
        self._is_full = False
        self._bytes += len(line)
        return True

    def _cut(self) -> None:
        """Takes away a line that was written in part: the next would be joined to it. Otherwise the file is written anew."""
        try:
            if self._file is not None:
                os.ftruncate(self._file, self._bytes)
        except OSError:
            os.close(self._file)  # type: ignore[arg-type]  # it is open
            self._file = None

    def _empty(self) -> bool:
        try:
            if self._file is None:
                return False
            os.ftruncate(self._file, len(self._header))
        except OSError as error:
            _log.error("recorder: spool file %s: %s", self.path, error.strerror or error)
            return False
        self._bytes = len(self._header)
        return True

    @property
    def _header(self) -> bytes:
        return spool_lines.header(is_cluster=self._is_cluster)

    def _write_anew(self) -> int:
        """In another file that takes the place of this: a crash leaves the one or the other."""
        other = self.path.with_name(f"{self.path.name}.new")
        flags = os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_APPEND | getattr(os, "O_CLOEXEC", 0)
        file = os.open(other, flags, 0o600)
        try:
            written = 0
            for line in (self._header, *self._sends.values(), *self._kept.values()):
                if os.write(file, line) != len(line):
                    raise OSError(0, "a line was written in part")
                written += len(line)
            os.replace(other, self.path)
        except BaseException:
            os.close(file)
            with suppress(OSError):
                other.unlink()
            raise
        if self._file is not None:
            if os.fstat(self._file).st_nlink:
                # It goes on under another name. No recorder may count once more what it has.
                os.ftruncate(self._file, 0)
            os.close(self._file)
        self._file, self._bytes, self._identity = file, written, _identity(os.fstat(file))
        return file

    def look(self) -> None:
        """Now and then: writes the file anew if somebody has deleted, replaced or changed it, and says so."""
        if time.monotonic() >= self._next_look_at:
            with self._lock:
                self._look()

    def _look(self) -> None:
        self._next_look_at = time.monotonic() + LOOK_SECONDS
        if self._lock_file is None or (became := self._became()) is None:
            return
        if not self._is_lost:
            _log.error("recorder: spool file %s was %s by somebody else; it is written anew", self.path, became)
        try:
            if not self._is_locked():
                other_lock, self._lock_file = self._lock_file, _locked(self.path)
                os.close(other_lock)
            if became == "replaced" and os.stat(self.path).st_size:
                aside = self.path.with_name(f"{self.path.name}.aside-{time.time_ns()}")
                os.rename(self.path, aside)
                _log.error("recorder: spool file %s: what took its place is %s now", self.path, aside)
            self._write_anew()
        except (OSError, SpoolError) as error:
            if not self._is_lost:
                _log.error(
                    "recorder: %s; what waits is in memory alone until it can be written", _told(self.path, error)
                )
            self._is_lost = True
        else:
            if self._is_lost:
                _log.warning("recorder: spool file %s is written anew", self.path)
            self._is_lost = False

    def _became(self) -> str | None:
        """What somebody has done with the file. None if it is as it was, or nobody can tell."""
        try:
            found = os.stat(self.path)
            is_locked = self._is_locked()
        except (FileNotFoundError, NotADirectoryError):
            return "deleted"
        except OSError:
            return None
        if _identity(found) != self._identity:
            return "replaced"
        if not is_locked:
            return "unlocked"
        return "changed" if self._file is not None and found.st_size != self._bytes else None

    def _is_locked(self) -> bool:
        """Whether the file that is locked is the one that another recorder would lock."""
        try:
            return self._lock_file is not None and os.path.samestat(
                os.stat(_lock_path(self.path)), os.fstat(self._lock_file)
            )
        except (FileNotFoundError, NotADirectoryError):
            return False

    def _read(self) -> tuple[list[Send], list[Record]]:
        if not self.path.exists() or not self.path.stat().st_size:
            return [], []
        lines = self.path.read_bytes().split(b"\n")
        # After the last whole line there is nothing, or the beginning of one: the process was killed while it wrote.
        lines.pop()
        if not lines:
            return [], []
        self._check_header(lines[0])
        sends, kept, damaged = spool_lines.read(lines[1:])
        if damaged:
            self._set_aside(damaged)
        return sends, kept

    def _set_aside(self, damaged: list[tuple[int, bytes]]) -> None:
        """In a spool file of their own, which a recorder can have when somebody has mended it."""
        aside = self.path.with_name(f"{self.path.name}.damaged")
        with open(aside, "ab", opener=_private) as file:
            file.write((b"" if file.tell() else self._header) + b"".join(line + b"\n" for _, line in damaged))
        numbers = ", ".join(str(number) for number, _ in damaged[:10]) + ("…" if len(damaged) > 10 else "")
        _log.error(
            "recorder: spool file %s: %d damaged lines (%s) are in %s now; what they say is not counted, and what they should "
            "have settled is sent again; the rest is sent",
            self.path,
            len(damaged),
            numbers,
            aside,
        )

    def _check_header(self, line: bytes) -> None:
        found = spool_lines.header_of(line)
        if found is None:
            raise SpoolError(f"spool file {self.path}: expected a file of a recorder, came something else")
        if found != (FORMAT, self._is_cluster):
            raise SpoolError(
                f"spool file {self.path}: expected format {FORMAT} for {_kind(self._is_cluster)}, came format {found[0]} for "
                f"{_kind(found[1])}; let the recorder that wrote it send what it has, or move the file away"
            )


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _locked(path: Path) -> int:
    try:
        import fcntl
    except ImportError:
        raise SpoolError("a spool file needs a POSIX system") from None
    # A file of its own: the spool file itself is replaced.
    flags = os.O_CREAT | os.O_RDWR | getattr(os, "O_CLOEXEC", 0)
    file = os.open(_lock_path(path), flags, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(file)
        raise SpoolError(f"spool file {path}: expected one of this recorder alone, but another one uses it") from None
    return file


def _lock_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.lock")


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _told(path: Path, error: OSError | SpoolError) -> str:
    return f"spool file {path}: {error.strerror or error}" if isinstance(error, OSError) else str(error)


def _kind(is_cluster: object) -> str:
    return "a Redis Cluster" if is_cluster else "a single Redis"
