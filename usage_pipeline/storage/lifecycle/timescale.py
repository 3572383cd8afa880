"""The lifecycle of hypertables. TimescaleDB makes the chunks; a run compresses and drops them, and refreshes the aggregate.

TimescaleDB's background policies are not used: only the lifecycle run knows which roll-ups are complete.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import psycopg
from psycopg import sql as compose

from usage_pipeline.storage.chunks.dropped import DropRules, dropped_spans, mark_dropped
from usage_pipeline.storage.chunks.locks import LOCK_SECONDS, changing, lock_timeout, removing
from usage_pipeline.storage.chunks.partitions import Chunk
from usage_pipeline.storage.chunks.tables import LifecycleTable, waiting_reason
from usage_pipeline.storage.lifecycle.native import RETENTION_REASON, Stays, handled
from usage_pipeline.storage.lifecycle.report import LifecycleReport, Moved, Packed, Waiting
from usage_pipeline.storage.sql import load, relation
from usage_pipeline.texts import counted

log = logging.getLogger(__name__)

_COUNTED_TABLE = "analytics.usage_events"
_COUNTS = "analytics.usage_hourly_counts"
_HOUR = timedelta(hours=1)


def hypertable_chunks(connection: psycopg.Connection, table: str) -> list[Chunk]:
    """All chunks of a hypertable (schema.name), oldest first."""
    rows = connection.execute(load("storage/lifecycle/select_hypertable_chunks"), {"table": table, "end": None})
    return [Chunk(name, start, end) for name, start, end, _ in rows]


@dataclass(frozen=True, slots=True)
class TimescaleLifecycle:
    """Hypertables over one autocommit connection."""

    connection: psycopg.Connection
    interval_hours: int
    rules: DropRules

    def make_ahead(self, table: LifecycleTable, now: datetime, report: LifecycleReport) -> None:
        """Sets only the length of future chunks. TimescaleDB makes a chunk with its first row."""
        interval = timedelta(hours=self.interval_hours)
        self.connection.execute(
            load("storage/lifecycle/set_chunk_interval"), {"table": table.name, "interval": interval}
        )

    def restore_changed(self, table: LifecycleTable, report: LifecycleReport) -> None:
        """Does nothing: compressed chunks accept late rows."""

    def compress(self, table: LifecycleTable, older_than: datetime, report: LifecycleReport) -> None:
        """Compresses chunks that end before `older_than` and are complete, and again those that took rows since then."""
        for chunk, needs_it in self._chunks_before(table, older_than):
            if not needs_it:
                continue
            with handled(table, chunk.name, report):
                if reason := waiting_reason(self.connection, table, chunk):
                    report.waiting.append(Waiting(table.name, chunk.name, reason))
                    continue
                with changing(self.connection, table.name):
                    report.compressed.append(self._compress(table, chunk))

    def drop(self, table: LifecycleTable, older_than: datetime, report: LifecycleReport) -> None:
        """Drops chunks that end before `older_than` and are complete, after their hours are in the continuous aggregate."""
        if table.name == _COUNTED_TABLE and not self._refresh(table, report):
            return
        for chunk, _ in self._chunks_before(table, older_than):
            with handled(table, chunk.name, report), changing(self.connection, table.name):
                self._drop(table, chunk)
                report.dropped.append(Moved(table.name, chunk.name))

    def clean_up(self, table: LifecycleTable, now: datetime, report: LifecycleReport) -> None:
        """Does nothing: there are no files."""

    # inside

    def _chunks_before(self, table: LifecycleTable, moment: datetime) -> list[tuple[Chunk, bool]]:
        rows = self.connection.execute(
            load("storage/lifecycle/select_hypertable_chunks"), {"table": table.name, "end": moment}
        )
        return [(Chunk(name, start, end), needs_it) for name, start, end, needs_it in rows]

    def _compress(self, table: LifecycleTable, chunk: Chunk) -> Packed:
        with lock_timeout(self.connection, LOCK_SECONDS, "in use"), self.connection.transaction():
            # It truncates what it has compressed, which an older snapshot would miss.
            removing(self.connection, table.name)
            self.connection.execute(
                "select compress_chunk(%s::text::regclass, if_not_compressed => true)", (chunk.name,)
            )
        [(rows, before, after)] = self.connection.execute(
            load("storage/lifecycle/select_chunk_compression"), {"table": table.name, "chunk": chunk.name}
        ).fetchall()
        log.info("lifecycle: %s compressed: %s, %d to %d bytes", chunk.name, counted(rows, "row"), before, after)
        return Packed(table.name, chunk.name, rows, before, after)

    def _drop(self, table: LifecycleTable, chunk: Chunk) -> None:
        with lock_timeout(self.connection, LOCK_SECONDS, "in use"), self.connection.transaction():
            removing(self.connection, table.name)
            self.rules.keep(self.connection, table.name, chunk.start, chunk.end)
            mark_dropped(self.connection, table.name, chunk.start, chunk.end, reason=RETENTION_REASON)
            name = relation(chunk.name)
            self.connection.execute(compose.SQL("lock table {} in access exclusive mode").format(name))
            if reason := waiting_reason(self.connection, table, chunk):
                raise Stays(reason)
            arguments = {"table": table.name, "start": chunk.start, "end": chunk.end}
            self.connection.execute(load("storage/lifecycle/drop_hypertable_chunk"), arguments)
        log.info("lifecycle: %s dropped", chunk.name)

    def _refresh(self, table: LifecycleTable, report: LifecycleReport) -> bool:
        """Refreshes the aggregate, but no hour whose events were dropped: it would lose its counts.

        False when another refresh is running. Then nothing is dropped, because its counts may not be stored yet.
        """
        until = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
        known, dropped = hypertable_chunks(self.connection, table.name), dropped_spans(self.connection, table.name)
        spans = whole_spans(known, dropped, until=until)
        with handled(table, _COUNTS, report), changing(self.connection, table.name):
            for start, end in spans:
                with lock_timeout(self.connection, LOCK_SECONDS, "another refresh is running"):
                    self.connection.execute(
                        "call refresh_continuous_aggregate(%s::text::regclass, %s, %s)", (_COUNTS, start, end)
                    )
            if spans:
                report.refreshed.append(_COUNTS)
            return True
        return False


def whole_spans(
    known: Sequence[Chunk], dropped: Sequence[tuple[datetime, datetime]], *, until: datetime
) -> list[tuple[datetime, datetime]]:
    """The half-open spans of chunks up to `until`, without those of which events were dropped. Neighbours become one span.

    Spans that have not one hour before `until` are left out: a refresh needs a whole hour.
    """
    spans: list[tuple[datetime, datetime]] = []
    for chunk in sorted(known, key=lambda one: one.start):
        if any(start < chunk.end and end > chunk.start for start, end in dropped):
            continue
        if spans and spans[-1][1] == chunk.start:
            spans[-1] = spans[-1][0], chunk.end
        else:
            spans.append((chunk.start, chunk.end))
    return [(start, min(end, until)) for start, end in spans if min(end, until) - start >= _HOUR]
