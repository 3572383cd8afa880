"""A file that has what is on its way to Redis, for the next recorder if this process is killed. POSIX only.

A line is written before each send, and for each record that waits; another says that a send is settled. Lines are not synced:
they survive the process, and not the machine. When nothing is on its way, the file has its first line alone.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Any

from usage_recorder.commands import Family, Moment, Record
from usage_recorder.delivery.sends import Part, Send

FORMAT = 1
MOST_BYTES = 256 * 1024 * 1024
# A file is written anew when it is this much larger than twice what it is for.
_SLACK_BYTES = 1024 * 1024
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
        # Whether a line is missing since the file was last written anew or emptied.
        self._has_gaps = False
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
            self._add_send(send, _send_line(send))
        for entry_id, record in kept:
            self._add_kept(entry_id, _kept_line(entry_id, record))
        try:
            self._write_anew()
        except OSError as error:
            self.close()
            raise SpoolError(f"spool file {self.path}: {error.strerror or error}") from None

    def note_send(self, send: Send, entry_id: int | None = None, instead_of: Send | None = None) -> bool:
        """Before a send goes out. `entry_id`, `instead_of`: the kept record, or the send, that it is made of. Whether the file
        has it."""
        line = _send_line(send, entry_id, instead_of)
        with self._lock:
            if not self._append(line, is_bounded=entry_id is None and instead_of is None):
                return False
            self._add_send(send, line if entry_id is None and instead_of is None else _send_line(send))
            if entry_id is not None:
                self._live_bytes -= len(self._kept.pop(entry_id, b""))
            if instead_of is not None:
                self._live_bytes -= len(self._sends.pop(instead_of.name, b""))
            return True

    def note_kept(self, entry_id: int, record: Record) -> bool:
        """An entry of what waits, as it is now. Whether the file has it."""
        line = _kept_line(entry_id, record)
        with self._lock:
            if not self._append(line):
                return False
            self._add_kept(entry_id, line)
            return True

    def has_send(self, send: Send) -> bool:
        with self._lock:
            return send.name in self._sends

    def has_kept(self, entry_id: int) -> bool:
        """Whether the file has the entry, maybe with less than it is now, as one that waits."""
        with self._lock:
            return entry_id in self._kept

    def note_settled(self, send: Send) -> bool:
        """Redis has confirmed or refused the send, or it was given up. Whether the file has no such send, or knows that."""
        with self._lock:
            line = self._sends.pop(send.name, None)
            if line is None:
                return True
            self._live_bytes -= len(line)
            if self._sends or self._kept:
                return self._append(_line({"d": send.name}), is_bounded=False)
            return self._empty()

    def write_last(self, sends: Iterable[Send], kept: Iterable[tuple[int, Record]]) -> Counter[Family]:
        """Before the end: makes the file have just these. Returns the records that it could not take."""
        with self._lock:
            missing: Counter[Family] = Counter()
            if not self._has_gaps or self._lock_file is None:
                return missing
            # Another thread may still wait for the answers to a send: the file goes on having it.
            before = self._sends.copy(), self._kept.copy()
            for send in sends:
                if send.name not in self._sends:
                    missing[send.family] += send.records
                    self._add_send(send, _send_line(send))
            for entry_id, record in kept:
                line, known = _kept_line(entry_id, record), self._kept.get(entry_id)
                if line != known:
                    missing[record.family] += record.records - (json.loads(known)["r"][-1] if known else 0)
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
        self._has_gaps = False
        return True

    @property
    def _header(self) -> bytes:
        return _line({"usage_recorder_spool": FORMAT, "is_cluster": self._is_cluster})

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
            os.close(self._file)
        self._file, self._bytes = file, written
        self._has_gaps = False
        return file

    def _read(self) -> tuple[list[Send], list[Record]]:
        if not self.path.exists() or not self.path.stat().st_size:
            return [], []
        lines = self.path.read_bytes().split(b"\n")
        # After the last whole line there is nothing, or the beginning of one: the process was killed while it wrote.
        lines.pop()
        sends: dict[tuple[str, int, int], Send] = {}
        kept: dict[int, Record] = {}
        if lines:
            self._check_header(lines[0])
        number = 1
        try:
            for line in lines[1:]:
                number += 1
                said = json.loads(line)
                if "s" in said:
                    send = _send(said["s"])
                    sends[send.name] = send
                    kept.pop(said.get("from"), None)
                    sends.pop(tuple(said.get("instead_of", ())), None)
                elif "d" in said:
                    sends.pop((said["d"][0], said["d"][1], said["d"][2]), None)
                else:
                    kept[said["k"]] = _record(said["r"])
        except (ValueError, TypeError, KeyError, IndexError):
            raise SpoolError(
                f"spool file {self.path}: line {number} is not one of a recorder; look at it, and move the file away"
            ) from None
        return list(sends.values()), list(kept.values())

    def _check_header(self, line: bytes) -> None:
        try:
            header = json.loads(line)
            found = header["usage_recorder_spool"], header["is_cluster"]
        except (ValueError, TypeError, KeyError):
            raise SpoolError(f"spool file {self.path}: expected a file of a recorder, came something else") from None
        if found != (FORMAT, self._is_cluster):
            raise SpoolError(
                f"spool file {self.path}: expected format {FORMAT} for {_kind(self._is_cluster)}, came format {found[0]} for "
                f"{_kind(found[1])}; let the recorder that wrote it send what it has, or move the file away"
            )


def _locked(path: Path) -> int:
    try:
        import fcntl
    except ImportError:
        raise SpoolError("a spool file needs a POSIX system") from None
    # A file of its own: the spool file itself is replaced.
    flags = os.O_CREAT | os.O_RDWR | getattr(os, "O_CLOEXEC", 0)
    file = os.open(path.with_name(f"{path.name}.lock"), flags, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(file)
        raise SpoolError(f"spool file {path}: expected one of this recorder alone, but another one uses it") from None
    return file


def _kind(is_cluster: object) -> str:
    return "a Redis Cluster" if is_cluster else "a single Redis"


def _line(said: object) -> bytes:
    return json.dumps(said, separators=(",", ":")).encode() + b"\n"


def _send_line(send: Send, entry_id: int | None = None, instead_of: Send | None = None) -> bytes:
    said: dict[str, Any] = {
        "s": [
            send.recorder_id,
            send.lane,
            send.number,
            send.family,
            send.records,
            send.writes,
            send.began_ms,
            send.parts,
            send.odometer,
            send.counted,
        ]
    }
    if entry_id is not None:
        said["from"] = entry_id
    if instead_of is not None:
        said["instead_of"] = instead_of.name
    return _line(said)


def _kept_line(entry_id: int, record: Record) -> bytes:
    day = record.at.day.isoformat()
    said = [record.family, record.key, record.at.ms, day, record.counts, record.names, record.records]
    return _line({"k": entry_id, "r": said})


def _send(said: list[Any]) -> Send:
    recorder_id, lane, number, family, records, writes, began_ms, parts, odometer, counted = said
    return Send(
        recorder_id,
        lane,
        number,
        family,
        records,
        writes,
        began_ms,
        [Part(route, tuple(words), tuple(places)) for route, words, places in parts],
        odometer,
        tuple((place, name, amount) for place, name, amount in counted),
        is_inherited=True,
    )


def _record(said: list[Any]) -> Record:
    family, key, ms, day, counts, names, records = said
    return Record(family, key, Moment(ms, date.fromisoformat(day)), counts, tuple(names), records)
