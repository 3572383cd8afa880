"""The landing folder: files of events that others put there, each ingested once, also after a crash.

`*.json`, `*.jsonl` and both with `.gz` hold events; below `archives/` they hold message archives. A file that was read moves to
`done/`. A file that cannot be read moves to `broken/`, with its reason beside it. The table ops.landed_files decides whether a
file was read; moving it is only housekeeping.
"""

import posixpath
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Literal

import fsspec
import psycopg
from fsspec.core import url_to_fs
from psycopg.rows import class_row

from usage_pipeline.events.ingest.batches import ARCHIVES, EVENTS, Kind, LetterBox, ingest
from usage_pipeline.events.landing.items import BrokenFile, items_of_file
from usage_pipeline.settings import Settings
from usage_pipeline.storage.postgres import connect, first_line
from usage_pipeline.storage.sql import load

# A name that begins with . or _ is that of a file that is not finished.
_ADDRESS = re.compile(r"(?:archives/)?[^./_][^/]*\.jsonl?(?:\.gz)?")
ARCHIVES_FOLDER, DONE, BROKEN = "archives", "done", "broken"
# One look lists at most this many files, in the order of their names. The rest waits for the next look.
MOST_FILES = 1_000
# If nobody wrote to a file for this long, the first look at it takes it as complete.
SETTLE_SECONDS = 10.0
_ITEMS_PER_BATCH = 2_000
_BYTES_PER_BATCH = 32 * 2**20
_COUNTS = ("received", "inserted", "duplicates", "conflicts")
# The names that file systems give to the time of the last change of a file. Some also have a tag, which changes with the file.
_TIMES = ("mtime", "LastModified", "last_modified", "updated", "modified", "created")
_CHANGED = ("ETag", "etag", *_TIMES)


class NoLandingError(Exception):
    """LANDING_URL is not set; one line."""


@dataclass(frozen=True, slots=True)
class LandedFile:
    """A file below LANDING_URL. Another fingerprint under the same address is another file.

    `changed_at` is in seconds since the epoch; None where the file system does not tell.
    """

    address: str
    bytes: int
    fingerprint: str
    changed_at: float | None = field(default=None, compare=False)

    @property
    def kind(self) -> Kind:
        return ARCHIVES if self.address.startswith(f"{ARCHIVES_FOLDER}/") else EVENTS


@dataclass(frozen=True, slots=True)
class FileReport:
    """The outcome of a file.

    `stored` and `broken` are in ops.landed_files. `busy`: another process reads it. `changed`: somebody wrote to it while it
    was read. `failed`: the file system could not read it, for a reason that may pass.
    """

    address: str
    outcome: Literal["stored", "broken", "busy", "changed", "gone", "failed"]
    reason: str | None = None
    received: int = 0
    inserted: int = 0
    duplicates: int = 0
    conflicts: int = 0
    rejected: int = 0


class Landing:
    """The folder of LANDING_URL: a path or any fsspec address."""

    def __init__(self, landing_url: str) -> None:
        self.files: fsspec.AbstractFileSystem
        self.files, self._root = url_to_fs(landing_url)

    def path(self, address: str) -> str:
        return posixpath.join(self._root, address)

    def waiting(self) -> list[LandedFile]:
        """Files that wait to be read, by name, at most MOST_FILES."""
        return list(islice(self.all_waiting(), MOST_FILES))

    def addresses(self, folder: str) -> list[str]:
        """All files below `done/` or `broken/`, with that folder in front."""
        self.files.invalidate_cache()
        root = self.path(folder)
        return [posixpath.join(folder, posixpath.relpath(path, root)) for path in sorted(self.files.find(root))]

    def look_at(self, address: str) -> LandedFile | None:
        """The file as it is now; None when it is gone."""
        self.files.invalidate_cache()
        try:
            info = self.files.info(self.path(address))
        except FileNotFoundError:
            return None
        return _landed(address, info)

    def put_away(self, file: LandedFile, folder: str) -> bool:
        """Moves a file to `done/` or `broken/`. False when it changed meanwhile: then it stays, or comes back."""
        if self.look_at(file.address) != file:
            return False
        target = posixpath.join(folder, file.address)
        if self.look_at(target) is not None:
            target = f"{target}.{datetime.now(UTC):%Y%m%dT%H%M%S%f}"
        self.files.makedirs(posixpath.dirname(self.path(target)), exist_ok=True)
        self.files.mv(self.path(file.address), self.path(target))
        moved = self.look_at(target)
        if moved is not None and moved.bytes != file.bytes:
            # Its writer was still writing, and we have not read what it added.
            self.files.mv(self.path(target), self.path(file.address))
            return False
        return True

    def explain(self, file: LandedFile, reason: str) -> None:
        """Puts the reason beside a broken file."""
        beside = self.path(posixpath.join(BROKEN, f"{file.address}.reason.txt"))
        self.files.makedirs(posixpath.dirname(beside), exist_ok=True)
        self.files.pipe_file(beside, f"{reason}\n".encode())

    def all_waiting(self) -> Iterator[LandedFile]:
        """All files that wait to be read, by name."""
        self.files.invalidate_cache()
        for folder in ("", ARCHIVES_FOLDER):
            try:
                listed = self.files.ls(self.path(folder).rstrip("/"), detail=True)
            except FileNotFoundError:
                continue
            for info in sorted(listed, key=lambda info: str(info["name"])):
                name = posixpath.basename(str(info["name"]))
                if info["type"] == "file" and _ADDRESS.fullmatch(posixpath.join(folder, name)):
                    yield _landed(posixpath.join(folder, name), info)


def settled(files: Sequence[LandedFile], settle_seconds: float, now_seconds: float) -> list[LandedFile]:
    """The files whose last change is at least so long ago. A file without a time of change is complete when it appears."""
    latest = now_seconds - settle_seconds
    return [file for file in files if file.changed_at is None or file.changed_at <= latest]


def ingest_landed(settings: Settings, addresses: Sequence[str] = (), *, budget_seconds: float) -> list[FileReport]:
    """Reads the named files, or all files that wait and are SETTLE_SECONDS old, until the time budget is used up.

    A file that fails does not stop the others. Raises NoLandingError without LANDING_URL, PostgresUnavailable, psycopg.Error.
    """
    if settings.landing_url is None:
        raise NoLandingError("LANDING_URL: expected a folder or an fsspec address, came nothing")
    landing = Landing(settings.landing_url)
    deadline = time.monotonic() + budget_seconds
    reports: list[FileReport] = []
    with closing(connect(settings)) as connection:
        for address in addresses or [file.address for file in settled(landing.waiting(), SETTLE_SECONDS, time.time())]:
            if time.monotonic() > deadline:
                break
            try:
                reports.append(ingest_file(connection, landing, address, settings=settings))
            except OSError as error:
                reports.append(FileReport(address, "failed", f"{type(error).__name__}: {first_line(error)}"))
    return reports


def ingest_file(connection: psycopg.Connection, landing: Landing, address: str, *, settings: Settings) -> FileReport:
    """Reads a file into the tables, notes it in ops.landed_files, and moves it. However often it is called, a file counts once.

    A file that cannot be read to its end is broken: the items before the fault are stored. Rejected items become dead letters.
    Raises psycopg.Error or OSError when a server or the file system fails; call it again then. Raises ValueError for an address
    that `waiting` would never list.
    """
    if not _ADDRESS.fullmatch(address):
        raise ValueError(f"address: expected the name of a file in the landing folder, came {address!r}")
    with _lock(connection, address) as is_ours:
        if not is_ours:
            return FileReport(address, "busy")
        file = landing.look_at(address)
        if file is None:
            return FileReport(address, "gone")
        if known := _known(connection, file):
            _put_away(landing, file, known)
            return known
        report = _read(connection, landing, file, settings)
        if landing.look_at(address) != file:
            return FileReport(address, "changed")
        connection.execute(
            load("events/landing/insert_landed_file"),
            {
                "address": address,
                "fingerprint": file.fingerprint,
                "bytes": file.bytes,
                "kind": file.kind.name,
                "outcome": report.outcome,
                "reason": report.reason,
                "received": report.received,
                "inserted": report.inserted,
                "duplicates": report.duplicates,
                "conflicts": report.conflicts,
                "rejected": report.rejected,
            },
        )
        _put_away(landing, file, report)
        return report


def _read(connection: psycopg.Connection, landing: Landing, file: LandedFile, settings: Settings) -> FileReport:
    totals = Counter[str]()
    reason = None
    with landing.files.open(landing.path(file.address), "rb") as stream:
        try:
            for batch in _batches(items_of_file(stream, file.address, file.kind.name, settings.max_decompressed_bytes)):
                letters = LetterBox(file.address.encode(), totals["received"])
                report = ingest(
                    connection, file.kind, batch, source=f"file:{file.address}", settings=settings, letters=letters
                )
                totals.update({name: getattr(report, name) for name in _COUNTS}, rejected=len(report.rejected))
        except BrokenFile as broken:
            reason = str(broken)
    counts = {name: totals[name] for name in (*_COUNTS, "rejected")}
    return FileReport(file.address, "stored" if reason is None else "broken", reason, **counts)


def _batches(items: Iterator[bytes]) -> Iterator[list[bytes]]:
    """Batches of bounded length and size. The batches before a fault come before its error is raised."""
    broken: BrokenFile | None = None
    batch: list[bytes] = []
    size = 0
    try:
        for item in items:
            batch.append(item)
            size += len(item)
            if len(batch) >= _ITEMS_PER_BATCH or size >= _BYTES_PER_BATCH:
                yield batch
                batch, size = [], 0
    except BrokenFile as fault:
        broken = fault
    if batch:
        yield batch
    if broken is not None:
        raise broken


def _put_away(landing: Landing, file: LandedFile, report: FileReport) -> None:
    """Moves the file. If this fails, the next call for the file does it. The reason is written before the file moves."""
    if report.reason is not None:
        landing.explain(file, report.reason)
    landing.put_away(file, DONE if report.outcome == "stored" else BROKEN)


def _known(connection: psycopg.Connection, file: LandedFile) -> FileReport | None:
    with connection.cursor(row_factory=class_row(FileReport)) as cursor:
        arguments = {"address": file.address, "fingerprint": file.fingerprint}
        return cursor.execute(load("events/landing/select_landed_file"), arguments).fetchone()


@contextmanager
def _lock(connection: psycopg.Connection, address: str) -> Iterator[bool]:
    """A lock that saves double work. A file counts once also without it."""
    [(is_ours,)] = connection.execute(
        "select pg_try_advisory_lock(hashtext('landed_files'), hashtext(%s))", (address,)
    ).fetchall()
    try:
        yield is_ours
    finally:
        if is_ours:
            connection.execute("select pg_advisory_unlock(hashtext('landed_files'), hashtext(%s))", (address,))


def _landed(address: str, info: dict[str, Any]) -> LandedFile:
    changed = next((info[name] for name in _TIMES if info.get(name) is not None), None)
    version = next((info[name] for name in _CHANGED if info.get(name) is not None), "")
    changed_at = changed.timestamp() if isinstance(changed, datetime) else changed
    return LandedFile(address, int(info["size"]), f"{info['size']}:{version}", changed_at)
