"""Reads files of the landing folder into the tables, each once, also after a crash.

The table ops.landed_files decides whether a file was read; moving it is only housekeeping.
"""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import Literal, cast

import psycopg
from psycopg.rows import class_row

from usage_pipeline.events.files.loading import Source, load_file
from usage_pipeline.events.files.names import FileKind, kind_of
from usage_pipeline.events.landing.faults import due_files, faults_of, forget_faults, note_fault
from usage_pipeline.events.landing.folder import BROKEN, DONE, LandedFile, Landing, NotMoved, is_read
from usage_pipeline.settings import Settings
from usage_pipeline.storage.postgres import connect, first_line
from usage_pipeline.storage.sql import load

# If nobody wrote to a file for this long, the first look at it takes it as complete.
SETTLE_SECONDS = 10.0
# And a file whose last line has no end, as if its writer rested in the middle of it. Its beginning would count beside it.
CUT_SECONDS = 600.0
_LINE_ENDS = (b"\n", b"\r")


class NoLandingError(Exception):
    """LANDING_URL is not set; one line."""


@dataclass(frozen=True, slots=True)
class FileReport:
    """The outcome of a file.

    `stored` and `broken` are in ops.landed_files. `unfinished`: its last line may be cut, so it waits. `busy`: another process
    reads it. `changed`: somebody wrote to it while it was read. `failed`: the file system could not read it, for a reason that
    may pass. `fault`: it was read, and stays where it is, because it could not be moved. `passed` rows are no events by
    themselves, such as spans; `notes` say so, and that there are more pages.
    """

    address: str
    outcome: Literal["stored", "broken", "busy", "changed", "gone", "failed", "unfinished"]
    reason: str | None = None
    received: int = 0
    inserted: int = 0
    duplicates: int = 0
    conflicts: int = 0
    rejected: int = 0
    fault: str | None = None
    passed: int = 0
    notes: tuple[str, ...] = ()


def settled(files: Sequence[LandedFile], settle_seconds: float, now_seconds: float) -> list[LandedFile]:
    """The files whose last change is at least so long ago. A file without a time of change is complete when it appears."""
    latest = now_seconds - settle_seconds
    return [file for file in files if file.changed_at is None or file.changed_at <= latest]


def ingest_landed(settings: Settings, addresses: Sequence[str] = (), *, budget_seconds: float) -> list[FileReport]:
    """Reads the named files, or all files that wait and are SETTLE_SECONDS old, until the time budget is used up.

    A file that fails does not stop the others; `due_files` says which ones it looks at. Raises NoLandingError without
    LANDING_URL, PostgresUnavailable, psycopg.Error.
    """
    if settings.landing_url is None:
        raise NoLandingError("LANDING_URL: expected a folder or an fsspec address, came nothing")
    landing = Landing(settings.landing_url)
    deadline = time.monotonic() + budget_seconds
    reports: list[FileReport] = []
    with closing(connect(settings)) as connection:
        for address in addresses or _due_addresses(connection, landing):
            if time.monotonic() > deadline:
                break
            reports.append(_tried(connection, landing, address, settings))
    return reports


def _due_addresses(connection: psycopg.Connection, landing: Landing) -> list[str]:
    files = settled(landing.waiting(), SETTLE_SECONDS, time.time())
    return [file.address for file in due_files(connection, files)]


def _tried(connection: psycopg.Connection, landing: Landing, address: str, settings: Settings) -> FileReport:
    """Reads a file. What fails with it alone is remembered; what fails with every file, such as a server away, is raised."""
    try:
        return ingest_file(connection, landing, address, settings=settings)
    except OSError as error:
        reason = landing.said(error)
    except psycopg.Error as error:
        if isinstance(error, psycopg.OperationalError) or connection.broken or connection.closed:
            raise
        reason = f"{type(error).__name__}: {first_line(error)}"
    try:
        file = landing.look_at(address)
    except OSError:
        file = None
    if file is not None:
        note_fault(connection, file, "read", reason)
    return FileReport(address, "failed", reason)


def ingest_file(connection: psycopg.Connection, landing: Landing, address: str, *, settings: Settings) -> FileReport:
    """Reads a file into the tables, notes it in ops.landed_files, and moves it. However often it is called, a file counts once.

    A file that cannot be read to its end is broken: the items before the fault are stored. Rejected items become dead letters.
    Raises psycopg.Error or OSError when a server or the file system fails; call it again then. Raises ValueError for an address
    that `waiting` would never list. A file whose last line may be cut is left for later. One that cannot be moved is a `fault`
    of the report, and no error.
    """
    if not is_read(address):
        raise ValueError(f"address: expected the name of a file in the landing folder, came {address!r}")
    with _lock(connection, address) as is_ours:
        if not is_ours:
            return FileReport(address, "busy")
        file = landing.look_at(address)
        if file is None:
            forget_faults(connection, address)
            return FileReport(address, "gone")
        if known := _known(connection, file):
            return _put_away(connection, landing, file, known)
        if _may_be_cut(landing, file, time.time()):
            return FileReport(
                address,
                "unfinished",
                "expected a line break behind the last line, came none: its writer may be in the middle of it. It is read "
                f"when nobody wrote to it for {CUT_SECONDS:.0f} seconds",
            )
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
        return _put_away(connection, landing, file, report)


def _may_be_cut(landing: Landing, file: LandedFile, now_seconds: float) -> bool:
    kind = kind_of(file.address)
    if kind is None or kind.packing or kind.content not in ("lines", "csv") or not file.bytes:
        return False
    # A time far ahead is that of a wrong clock, and no reason to wait for it.
    if file.changed_at is None or abs(now_seconds - file.changed_at) >= CUT_SECONDS:
        return False
    with landing.open(file.address) as stream:
        stream.seek(-1, os.SEEK_END)
        return stream.read(1) not in _LINE_ENDS


def _read(connection: psycopg.Connection, landing: Landing, file: LandedFile, settings: Settings) -> FileReport:
    source = Source(
        f"file:{file.address}",
        # Of every address that is read, it has one.
        cast("FileKind", kind_of(file.address)),
        holds=file.kind,
        row_format=file.row_format,
        letters_of=file.address.encode(),
        is_local=landing.is_local,
    )
    with landing.open(file.address) as stream:
        loaded = load_file(connection, stream, source, settings=settings)
    return FileReport(
        file.address,
        "stored" if loaded.reason is None else "broken",
        loaded.reason,
        loaded.received,
        loaded.inserted,
        loaded.duplicates,
        loaded.conflicts,
        loaded.rejected,
        passed=loaded.passed,
        notes=tuple(loaded.notes),
    )


def _put_away(connection: psycopg.Connection, landing: Landing, file: LandedFile, report: FileReport) -> FileReport:
    """Moves the file, after the reason of a broken one is written. What fails is remembered: a later call tries it again."""
    copied_to = next((fault.copied_to for fault in faults_of(connection, [file])), None)
    try:
        if report.reason is not None:
            landing.explain(file, report.reason)
        landing.put_away(file, DONE if report.outcome == "stored" else BROKEN, copied_to)
    except NotMoved as error:
        note_fault(connection, file, "move", str(error), error.copied_to)
        return replace(report, fault=str(error))
    forget_faults(connection, file.address)
    return report


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
