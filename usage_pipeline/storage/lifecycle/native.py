"""The lifecycle of native partitions: creates them ahead, archives them as zstd Parquet, drops them.

Archiving keeps nobody waiting. The rows are written from a snapshot, and the file is stored and read back. Only then the
partition is locked and compared with the snapshot by its row versions. One transaction empties it and writes the manifest.
After that, the empty partition is dropped. After a crash, the rows are in the table or in the file, never in neither.
"""

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import psycopg
from psycopg import sql as compose

from usage_pipeline.storage.archives.files import (
    delete_file,
    delete_leftovers,
    note_deleted,
    note_leftover,
    restore,
    verify_stored,
)
from usage_pipeline.storage.archives.manifest import Archive, archives
from usage_pipeline.storage.archives.parquet import ParquetReader, Written, export
from usage_pipeline.storage.archives.store import (
    ArchiveDamaged,
    ArchiveStore,
    ArchiveUnavailable,
    StoredFile,
    checksum,
    new_address,
)
from usage_pipeline.storage.chunks.dropped import DropRules, mark_dropped
from usage_pipeline.storage.chunks.locks import LOCK_SECONDS, ChunksBusy, changing, lock_timeout, removing
from usage_pipeline.storage.chunks.partitions import (
    DAYS_AHEAD,
    Chunk,
    chunks,
    drop_partition,
    ensure_partitions,
    ensure_span,
)
from usage_pipeline.storage.chunks.tables import LifecycleTable, restored_reason, waiting_reason
from usage_pipeline.storage.lifecycle.report import LifecycleReport, Moved, Packed, Waiting
from usage_pipeline.storage.sql import composed, load, relation
from usage_pipeline.texts import counted

log = logging.getLogger(__name__)

RETENTION_REASON = "it was older than RETENTION_DAYS"


class Stays(Exception):
    """The chunk changed or is in use. The transaction is rolled back, and the chunk stays until the next run."""


@dataclass(frozen=True, slots=True)
class _Fingerprint:
    rows: int
    versions: str


@dataclass(frozen=True, slots=True)
class NativeLifecycle:
    """Native partitions over one autocommit connection. Without a `store` nothing is archived."""

    connection: psycopg.Connection
    store: ArchiveStore | None
    interval_hours: int
    rules: DropRules

    def make_ahead(self, table: LifecycleTable, now: datetime, report: LifecycleReport) -> None:
        """Creates the partitions of yesterday, today and the next days."""
        if table.is_raw:
            days = [now.date() + timedelta(days=offset) for offset in range(-1, DAYS_AHEAD + 1)]
            report.created += [
                f"{table.name}_{day:%Y%m%d}" for day in ensure_partitions(self.connection, table.name, days)
            ]
            return
        span = now - timedelta(days=1), now + timedelta(days=DAYS_AHEAD)
        made = ensure_span(self.connection, table.name, *span, self.interval_hours)
        report.created += [chunk.name for chunk in made]

    def restore_changed(self, table: LifecycleTable, report: LifecycleReport) -> None:
        """Reads archived chunks back when they are needed: a roll-up waits for them, or new rows came for them."""
        if self.store is None:
            return
        for archive in archives(self.connection, table=table.name, only_in_files=True):
            chunk = Chunk(archive.address, archive.chunk_start, archive.chunk_end)
            if not self._has_changed(table, chunk):
                continue
            with handled(table, archive.address, report):
                done = restore(self.connection, self.store, archive, interval_hours=self.interval_hours)
                if done.is_ours:
                    report.restored.append(Moved(table.name, archive.address, archive.rows))

    def compress(self, table: LifecycleTable, older_than: datetime, report: LifecycleReport) -> None:
        """Archives the partitions that end before `older_than` and are complete."""
        for chunk in self._chunks_before(table, older_than):
            with handled(table, chunk.name, report):
                if self._is_empty(chunk):
                    if self.store is not None:
                        self._drop(table, chunk, only_if_empty=True)
                elif reason := waiting_reason(self.connection, table, chunk) or restored_reason(
                    self.connection, table, chunk
                ):
                    report.waiting.append(Waiting(table.name, chunk.name, reason))
                elif self.store is not None:
                    self._archive(table, chunk, self.store, report)

    def drop(self, table: LifecycleTable, older_than: datetime, report: LifecycleReport) -> None:
        """Drops the partitions that end before `older_than` and are complete, and deletes the files of that time.

        Each leaves a mark. A file whose rows are needed for that is read back, and leaves as a partition.
        """
        unreadable = self._read_back_needed(table, older_than, report)
        for chunk in self._chunks_before(table, older_than):
            with handled(table, chunk.name, report):
                if self._is_empty(chunk):
                    # Nobody waits for rows that are not there. It may be a day on which nothing was ever counted.
                    is_dropped = self._drop(table, chunk, only_if_empty=True)
                elif reason := waiting_reason(self.connection, table, chunk) or self._file_reason(table, chunk):
                    report.waiting.append(Waiting(table.name, chunk.name, reason))
                    continue
                else:
                    is_dropped = self._drop(table, chunk, only_if_empty=False)
                if is_dropped:
                    report.dropped.append(Moved(table.name, chunk.name))
        for archive in self._files_before(table, older_than):
            if archive.deleted_at is None:
                self._drop_file(table, archive, report, unreadable)

    def clean_up(self, table: LifecycleTable, now: datetime, report: LifecycleReport) -> None:
        """Deletes files that a crash left behind, and files that were read back more than a day ago."""
        if self.store is None:
            return
        with handled(table, "files", report), changing(self.connection, table.name):
            report.leftovers_removed += len(delete_leftovers(self.connection, self.store, table.name))
            for archive in archives(self.connection, table=table.name):
                if archive.restored_at and not archive.deleted_at and archive.restored_at < now - timedelta(days=1):
                    delete_file(self.connection, self.store, archive)

    # inside

    def _chunks_before(self, table: LifecycleTable, moment: datetime) -> list[Chunk]:
        return [chunk for chunk in chunks(self.connection, table.name) if chunk.end <= moment]

    def _has_changed(self, table: LifecycleTable, chunk: Chunk) -> bool:
        if waiting_reason(self.connection, table, chunk):
            return True
        overlapping = (
            each for each in chunks(self.connection, table.name) if each.start < chunk.end and each.end > chunk.start
        )
        return not all(self._is_empty(each) for each in overlapping)

    def _archive(self, table: LifecycleTable, chunk: Chunk, store: ArchiveStore, report: LifecycleReport) -> None:
        with (
            changing(self.connection, table.name),
            tempfile.TemporaryDirectory(prefix="usage-pipeline-archive-") as folder,
        ):
            if chunk not in chunks(self.connection, table.name):
                return
            local = Path(folder) / "rows.parquet"
            size = self._bytes(chunk)
            before, written = self._export(table, chunk, local)
            file = checksum(local)
            address = new_address(table.name, chunk.start)
            note_leftover(self.connection, table.name, address)
            store.put(local, address)
            verify_stored(store, address, file)
            try:
                self._replace_by_file(table, chunk, before, address, file)
            except (Stays, ChunksBusy):
                # Rolled back for certain, so nobody refers to the file.
                delete_leftovers(self.connection, store, table.name)
                raise
            log.info(
                "lifecycle: %s archived: %s, %d to %d bytes", chunk.name, counted(written.rows, "row"), size, file.bytes
            )
            report.archived.append(Packed(table.name, chunk.name, written.rows, size, file.bytes))
            # Rows that came since the commit stay where they are; the next run reads the file back and archives all of them.
            self._drop_locked(table, chunk, only_if_empty=True)

    def _export(self, table: LifecycleTable, chunk: Chunk, local: Path) -> tuple[_Fingerprint, Written]:
        """Writes the partition to a local file and verifies it. Returns it with the fingerprint of the same snapshot."""
        with self.connection.transaction():
            self.connection.execute("set transaction isolation level repeatable read, read only")
            before = self._fingerprint(chunk)
            written = export(self.connection, table.name, chunk.name, local, order_by=table.key)
        with ParquetReader(local, chunk.name) as reader:
            again = reader.written()
        if again != written or written.rows != before.rows:
            raise ArchiveDamaged(
                f"{chunk.name}: expected a file of {counted(before.rows, 'row')} as read, came {counted(again.rows, 'row')}"
            )
        return before, written

    def _replace_by_file(
        self, table: LifecycleTable, chunk: Chunk, before: _Fingerprint, address: str, file: StoredFile
    ) -> None:
        """The decisive step: the row of the manifest and the emptied partition become visible together.

        It uses TRUNCATE, which needs only a lock on the partition. DROP needs a lock on the parent, which every writer holds.
        """
        partition = relation(chunk.name)
        with lock_timeout(self.connection, LOCK_SECONDS, "in use"), self.connection.transaction():
            removing(self.connection, table.name)
            self.connection.execute(compose.SQL("lock table {} in access exclusive mode").format(partition))
            if reason := waiting_reason(self.connection, table, chunk):
                raise Stays(reason)
            if self._fingerprint(chunk) != before:
                raise Stays("it changed while it was archived")
            arguments = {"table": table.name, "start": chunk.start, "end": chunk.end, "address": address}
            self.connection.execute(
                load("storage/archives/insert_archive"),
                {**arguments, "rows": before.rows, "bytes": file.bytes, "checksum": file.checksum},
            )
            self.connection.execute(compose.SQL("truncate table {}").format(partition))

    def _drop(self, table: LifecycleTable, chunk: Chunk, *, only_if_empty: bool) -> bool:
        with changing(self.connection, table.name):
            return self._drop_locked(table, chunk, only_if_empty=only_if_empty)

    def _drop_locked(self, table: LifecycleTable, chunk: Chunk, *, only_if_empty: bool) -> bool:
        is_dropped = False
        with (
            lock_timeout(self.connection, LOCK_SECONDS, "in use"),
            self.connection.transaction() as transaction,
        ):
            removing(self.connection, table.name)
            if not only_if_empty:
                # Before the partition and its parent are locked, since all writers wait for these. Whatever comes meanwhile
                # makes its windows stale, and is seen below.
                self.rules.keep(self.connection, table.name, chunk.start, chunk.end)
                mark_dropped(self.connection, table.name, chunk.start, chunk.end, reason=RETENTION_REASON)
            is_dropped = drop_partition(self.connection, table.name, chunk, only_if_empty=only_if_empty)
            if not is_dropped:
                raise psycopg.Rollback(transaction)
            if not only_if_empty and (reason := waiting_reason(self.connection, table, chunk)):
                raise Stays(reason)
        if is_dropped:
            log.info("lifecycle: %s dropped", chunk.name)
        return is_dropped

    def _files_before(self, table: LifecycleTable, moment: datetime) -> list[Archive]:
        found = archives(self.connection, table=table.name, end=moment)
        return [archive for archive in found if archive.chunk_end <= moment]

    def _read_back_needed(self, table: LifecycleTable, older_than: datetime, report: LifecycleReport) -> set[int]:
        """Reads files back whose rows are needed before they go. Returns the archives of files that cannot be read."""
        unreadable = set[int]()
        for archive in self._files_before(table, older_than):
            span = archive.chunk_start, archive.chunk_end
            if (
                self.store is None
                or archive.state != "archived"
                or self._file_waits_for(table, archive)
                or not self.rules.needs_rows(self.connection, table.name, *span)
            ):
                continue
            with handled(table, archive.address, report):
                try:
                    restore(self.connection, self.store, archive, interval_hours=self.interval_hours)
                except ArchiveDamaged:
                    # Its time is over, and nobody can ever read it. Windows that are partly in it stay as they are.
                    unreadable.add(archive.archive_id)
                    raise
        return unreadable

    def _file_reason(self, table: LifecycleTable, chunk: Chunk) -> str | None:
        """Why a complete partition must stay: some rows of its time are only in a file, which is dropped or read back first."""
        span = {"start": chunk.start, "end": chunk.end}
        found = archives(self.connection, table=table.name, only_in_files=True, **span)
        return f"rows of its time are only in {found[0].address}" if found else None

    def _file_waits_for(self, table: LifecycleTable, archive: Archive) -> str | None:
        return waiting_reason(self.connection, table, Chunk(archive.address, archive.chunk_start, archive.chunk_end))

    def _drop_file(
        self, table: LifecycleTable, archive: Archive, report: LifecycleReport, unreadable: set[int]
    ) -> None:
        if self.store is None:
            report.waiting.append(Waiting(table.name, archive.address, "ARCHIVE_URL is not set"))
            return
        if archive.restored_at is not None:
            # Its rows are in the table.
            with handled(table, archive.address, report), changing(self.connection, table.name):
                delete_file(self.connection, self.store, archive)
            return
        if reason := self._file_waits_for(table, archive):
            report.waiting.append(Waiting(table.name, archive.address, reason))
            return
        edges_kept = archive.archive_id not in unreadable
        span = archive.chunk_start, archive.chunk_end
        with handled(table, archive.address, report), changing(self.connection, table.name):
            if edges_kept and self.rules.needs_rows(self.connection, table.name, *span):
                raise Stays("it could not be read back in this run, and its rows are needed")
            self.store.delete(archive.address)
            with lock_timeout(self.connection, LOCK_SECONDS, "in use"), self.connection.transaction():
                removing(self.connection, table.name)
                if edges_kept:
                    self.rules.keep(self.connection, table.name, *span)
                mark_dropped(self.connection, table.name, *span, reason=RETENTION_REASON, edges_kept=edges_kept)
                note_deleted(self.connection, archive)
            report.dropped.append(Moved(table.name, archive.address, archive.rows))

    def _fingerprint(self, chunk: Chunk) -> _Fingerprint:
        query = composed("storage/lifecycle/fingerprint_partition", partition=relation(chunk.name))
        [(rows, versions)] = self.connection.execute(query).fetchall()
        return _Fingerprint(rows, versions)

    def _is_empty(self, chunk: Chunk) -> bool:
        query = compose.SQL("select from {} limit 1").format(relation(chunk.name))
        return self.connection.execute(query).fetchone() is None

    def _bytes(self, chunk: Chunk) -> int:
        [(size,)] = self.connection.execute(
            "select pg_total_relation_size(%s::text::regclass)", (chunk.name,)
        ).fetchall()
        return int(size)


@contextmanager
def handled(table: LifecycleTable, chunk: str, report: LifecycleReport) -> Iterator[None]:
    """A chunk that is in use or damaged does not stop the others. The report names it, and the next run tries again."""
    try:
        yield
    except (Stays, ChunksBusy) as error:
        report.waiting.append(Waiting(table.name, chunk, str(error)))
    except psycopg.errors.UndefinedTable:
        # Another run dropped it meanwhile.
        log.info("lifecycle: %s is gone already", chunk)
    except (ArchiveDamaged, ArchiveUnavailable, OSError, ValueError, psycopg.DataError) as error:
        log.error("lifecycle: %s: %s", chunk, error)
        report.problems.append(f"{chunk}: {error}")
