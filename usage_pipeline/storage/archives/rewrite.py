"""Replaces the file of an archive by one with changed rows, for an erasure. The rows are only in the file, before and after.

The caller holds the table's lock (`chunk_locks.changing`). Cut short anywhere, the manifest refers to the old file or the
new one, both whole, and the other is a leftover.
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
    """Writes the changed file, verifies it, and has the manifest refer to it; then the old file is deleted.

    `note` is called with the number of changed rows in the transaction that replaces the file.
    Raises ArchiveDamaged, and changes nothing, when the file is not what the manifest says.
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
                raise ArchiveDamaged(f"{archive.address}: expected its rewritten rows to read as written, came others")
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
            raise ArchiveDamaged(f"{archive.address}: expected it to be the archive's file, came another one meanwhile")
        note(changed_rows)
    delete_leftovers(connection, store, archive.table_name)
