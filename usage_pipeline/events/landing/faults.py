"""Landed files that could not be read or moved: they are remembered, passed over, and tried again more and more rarely.

Without this, the first 1,000 of them would be looked at for ever, and no file after them. ops.landed_files still decides
whether a file was read: one that was read and cannot be moved is never read again.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import psycopg
from psycopg.rows import class_row

from usage_pipeline.events.landing.folder import LandedFile
from usage_pipeline.storage.sql import load

# One look takes at most this many new files, in the order of their names, and this many that failed before.
MOST_FILES = 1_000
MOST_RETRIES = 20
_ADDRESSES_PER_QUERY = 10_000

Step = Literal["read", "move"]


@dataclass(frozen=True, slots=True)
class FileFault:
    """What failed with a file that is still there. `copied_to` is the copy of a file that could be copied and not deleted."""

    address: str
    fingerprint: str
    step: Step
    reason: str
    copied_to: str | None
    failures: int
    first_failed_at: datetime
    last_failed_at: datetime
    is_due: bool


def note_fault(
    connection: psycopg.Connection, file: LandedFile, step: Step, reason: str, copied_to: str | None = None
) -> None:
    """Remembers that a step failed, once more. Raises psycopg.Error."""
    arguments = {
        "address": file.address,
        "fingerprint": file.fingerprint,
        "step": step,
        "reason": reason,
        "copied_to": copied_to,
    }
    connection.execute(load("events/landing/upsert_landing_fault"), arguments)


def forget_faults(connection: psycopg.Connection, address: str) -> None:
    """Forgets the faults of an address: its file was moved, or is gone. Raises psycopg.Error."""
    connection.execute("delete from ops.landing_faults where address = %s", (address,))


def faults_of(connection: psycopg.Connection, files: Sequence[LandedFile]) -> Iterator[FileFault]:
    """The faults of these files, as they are now, in the order of their addresses. Raises psycopg.Error."""
    for first in range(0, len(files), _ADDRESSES_PER_QUERY):
        part = {(file.address, file.fingerprint) for file in files[first : first + _ADDRESSES_PER_QUERY]}
        with connection.cursor(row_factory=class_row(FileFault)) as cursor:
            cursor.execute(load("events/landing/select_landing_faults"), {"addresses": [each for each, _ in part]})
            yield from (fault for fault in cursor if (fault.address, fault.fingerprint) in part)


def due_files(connection: psycopg.Connection, files: Sequence[LandedFile]) -> list[LandedFile]:
    """What to look at now: at most MOST_FILES files without a fault, and MOST_RETRIES with one, the oldest fault first.

    Raises psycopg.Error.
    """
    new: list[LandedFile] = []
    again: list[tuple[datetime, LandedFile]] = []
    for first in range(0, len(files), _ADDRESSES_PER_QUERY):
        part = files[first : first + _ADDRESSES_PER_QUERY]
        faults = {fault.address: fault for fault in faults_of(connection, part)}
        new.extend(file for file in part if file.address not in faults)
        again.extend(
            (faults[file.address].last_failed_at, file)
            for file in part
            if file.address in faults and faults[file.address].is_due
        )
        if len(new) >= MOST_FILES:
            break
    again.sort(key=lambda each: (each[0], each[1].address))
    return [*new[:MOST_FILES], *(file for _, file in again[:MOST_RETRIES])]
