"""Replaces the file of an archive with one whose rows are changed, for an erasure. The rows stay only in a file.

The caller holds the lock of the table (`chunks.locks.changing`). After a crash at any point, the manifest names the old or the
new file; both are whole, and the other one is a leftover.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

import psycopg

from usage_pipeline.storage.archives.files import delete_leftovers, note_leftover, verified, verify_stored
from usage_pipeline.storage.archives.manifest import Archive
from usage_pipeline.storage.archives.parquet import Group, ParquetReader, ParquetWriter
from usage_pipeline.storage.archives.store import ArchiveDamaged, ArchiveStore, checksum, new_address
from usage_pipeline.storage.sql import load

Change = Callable[[list[str], Group], tuple[Group, int]]
"""Column names and a row group -> the group as it is to be, and how many of its rows were changed or removed."""


def rewrite(
    connection: psycopg.Connection,
    store: ArchiveStore,
    archive: Archive,
    change: Change,
    *,
    note: Callable[[int], None],
) -> None:
    """Writes the changed file, verifies it, puts it into the manifest, and then deletes the old file.

    In the transaction that replaces the file, it calls `note` with the number of changed rows.
    Raises ArchiveDamaged, and changes nothing, when the file differs from the manifest.
    """
    with (
        verified(store, archive) as reader,
        tempfile.TemporaryDirectory(prefix="usage-pipeline-rewrite-") as folder,
    ):
        local = Path(folder) / "rows.parquet"
        changed_rows = 0
        with ParquetWriter(local, reader.listed) as writer:
            for group in reader.groups():
                changed, rows = change(reader.names, group)
                changed_rows += rows
                if changed[0]:
                    writer.write(changed)
        with ParquetReader(local, archive.address) as again:
            if again.written() != writer.written:
                raise ArchiveDamaged(f"{archive.address}: expected the rewritten rows to read as written, came others")
        file = checksum(local)
        address = new_address(archive.table_name, archive.chunk_start)
        note_leftover(connection, archive.table_name, address)
        store.put(local, address)
    verify_stored(store, address, file)
    with connection.transaction():
        arguments = {
            "archive_id": archive.archive_id,
            "table": archive.table_name,
            "old_address": archive.address,
            "address": address,
            "rows": writer.written.rows,
            "bytes": file.bytes,
            "checksum": file.checksum,
        }
        if connection.execute(load("storage/archives/replace_archive"), arguments).fetchone() is None:
            raise ArchiveDamaged(
                f"{archive.address}: expected this file in the manifest, came another: it was replaced meanwhile"
            )
        note(changed_rows)
    delete_leftovers(connection, store, archive.table_name)
