"""Files of archived partitions: verifies a file, reads its rows back, deletes it.

To change an archive or its file, a process must hold the lock of the table (`chunks.locks.changing`).
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path

import psycopg

from usage_pipeline.storage.archives.manifest import Archive
from usage_pipeline.storage.archives.parquet import ParquetReader, load_rows
from usage_pipeline.storage.archives.store import ArchiveDamaged, ArchiveStore, StoredFile
from usage_pipeline.storage.chunks.locks import changing
from usage_pipeline.storage.chunks.partitions import ensure_partitions, ensure_span
from usage_pipeline.storage.chunks.tables import BY_NAME, LifecycleTable
from usage_pipeline.storage.sql import load
from usage_pipeline.texts import counted


@dataclass(frozen=True, slots=True)
class Restored:
    """An archive whose rows are in the table: read back by this call (`is_ours`), or before."""

    archive: Archive
    is_ours: bool


def restore(connection: psycopg.Connection, store: ArchiveStore, archive: Archive, *, interval_hours: int) -> Restored:
    """Reads the rows of an archive back into its table, all or none. An archive that was read back before stays as it is.

    Raises ArchiveDamaged, and reads nothing, when the file differs from the manifest. Also ArchiveUnavailable, ChunksBusy.
    """
    table = BY_NAME[archive.table_name]
    with changing(connection, table.name), verified(store, archive) as reader:
        _ensure_partitions(connection, table, archive, interval_hours)
        with connection.transaction():
            arguments = {"archive_id": archive.archive_id, "address": archive.address}
            if connection.execute(load("storage/archives/lock_archive"), arguments).fetchone() is None:
                return Restored(archive, is_ours=False)
            rows = load_rows(connection, table.name, reader)
            if rows != archive.rows:
                raise ArchiveDamaged(f"{archive.address}: expected {counted(archive.rows, 'row')}, came {rows}")
            if table.mend:
                connection.execute(load(table.mend), arguments)
            connection.execute(
                "update ops.archives set restored_at = clock_timestamp() where archive_id = %s", (archive.archive_id,)
            )
    return Restored(archive, is_ours=True)


@contextmanager
def verified(store: ArchiveStore, archive: Archive) -> Iterator[ParquetReader]:
    """A local copy of the file of an archive, compared with the manifest. Raises ArchiveDamaged when it differs."""
    with tempfile.TemporaryDirectory(prefix="usage-pipeline-archive-") as folder:
        local = Path(folder) / "rows.parquet"
        _expect(archive.address, StoredFile(archive.bytes, archive.checksum), store.fetch(archive.address, local))
        with ParquetReader(local, archive.address) as reader:
            if reader.rows != archive.rows:
                raise ArchiveDamaged(f"{archive.address}: expected {counted(archive.rows, 'row')}, came {reader.rows}")
            yield reader


def verify_stored(store: ArchiveStore, address: str, written: StoredFile) -> None:
    """Reads back a file that was just stored. Raises ArchiveDamaged when it differs from what was written."""
    _expect(address, written, store.fetch(address))


def delete_file(connection: psycopg.Connection, store: ArchiveStore, archive: Archive) -> None:
    """Deletes the file, then notes that. After a crash in between, the next call deletes it again."""
    store.delete(archive.address)
    note_deleted(connection, archive)


def note_deleted(connection: psycopg.Connection, archive: Archive) -> None:
    """Notes that the file of an archive is deleted."""
    connection.execute(
        "update ops.archives set deleted_at = clock_timestamp() where archive_id = %s and deleted_at is null",
        (archive.archive_id,),
    )


def note_leftover(connection: psycopg.Connection, table: str, address: str) -> None:
    """Notes the address of a file before it is written, in its own transaction: if the writer dies, the file is known."""
    connection.execute(
        "insert into ops.archive_leftovers (address, table_name) values (%s, %s) on conflict (address) do nothing",
        (address, table),
    )


def delete_leftovers(connection: psycopg.Connection, store: ArchiveStore, table: str) -> list[str]:
    """Deletes noted files of a table that are not in the manifest, and returns their addresses. The caller holds the lock."""
    deleted = []
    for address, is_live in connection.execute(load("storage/archives/select_leftovers"), {"table": table}).fetchall():
        if not is_live:
            store.delete(address)
            deleted.append(address)
        connection.execute("delete from ops.archive_leftovers where address = %s", (address,))
    return deleted


def _expect(address: str, expected: StoredFile, came: StoredFile) -> None:
    if came.bytes != expected.bytes:
        raise ArchiveDamaged(f"{address}: expected {counted(expected.bytes, 'byte')}, came {came.bytes}")
    if came.checksum != expected.checksum:
        raise ArchiveDamaged(f"{address}: expected SHA-256 {expected.checksum}, came {came.checksum}")


def _ensure_partitions(
    connection: psycopg.Connection, table: LifecycleTable, archive: Archive, interval_hours: int
) -> None:
    if table.is_raw:
        ensure_partitions(connection, table.name, [archive.chunk_start.astimezone(UTC).date()])
    else:
        ensure_span(connection, table.name, archive.chunk_start, archive.chunk_end, interval_hours)
