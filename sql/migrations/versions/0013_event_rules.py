"""Names of any accepted width in roll-ups of usage events; empty texts, counts of one kind, and failed requests.

Rows that are stored already are mended with their hashes: else a retry of such an event would be a conflict, no duplicate.
"""

from collections.abc import Callable, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import msgspec
import psycopg
from alembic import op

from usage_pipeline.storage.copy_text import copy_line
from usage_pipeline.storage.sql import composed, load, relation

revision = "0013"
down_revision = "0012"

_FOLDER = Path(__file__).parent
_ROWS_AT_ONCE = 5_000
Row = Sequence[Any]


def upgrade() -> None:
    bind = op.get_bind()
    bind.exec_driver_sql((_FOLDER / "0013_event_rules.sql").read_text(encoding="utf-8"))
    connection = bind.connection.driver_connection
    # TimescaleDB otherwise refuses to change more rows than this in compressed chunks. Without it, the name means nothing.
    connection.execute("select set_config('timescaledb.max_tuples_decompressed_per_dml_transaction', '0', true)")
    _mend_hashes(connection, "analytics.usage_event_ids", "0013_old_events", _event)
    _mend_hashes(connection, "analytics.message_archive_ids", "0013_old_archives", _archive)
    connection.execute("select analytics.mend_events('-infinity', 'infinity')")
    connection.execute("select analytics.mend_message_archives('-infinity', 'infinity')")


def _event(row: Row) -> tuple[Row, Row]:
    """The columns as they were when their hash was made, and as they will be."""
    *columns, extra = row
    if extra is not None:
        extra = msgspec.json.encode(msgspec.json.decode(extra), order="sorted").decode()
    entered, left, total = columns[5:8]
    error_type, prompt = columns[10:]
    mended = [*columns[:7], total or (entered or 0) + (left or 0), *columns[8:10], error_type or None, prompt or None]
    return [*columns, extra], [*mended, extra]


def _archive(row: Row) -> tuple[Row, Row]:
    return row, [text or None for text in row]


def _mend_hashes(
    connection: psycopg.Connection, registry: str, old_rows: str, sides: Callable[[Row], tuple[Row, Row]]
) -> None:
    """Gives rows the hash that they would get now. A hash that is not that of its row (of an erased user) stays as it is."""
    connection.execute("create temporary table mended_hash (event_id uuid, payload_hash bytea) on commit drop")
    with connection.cursor("old_rows") as old, connection.cursor() as cursor:
        old.execute(load(f"migrations/versions/{old_rows}"))
        while rows := old.fetchmany(_ROWS_AT_ONCE):
            both = [(event_id, stored, *sides(row)) for event_id, stored, *row in rows]
            hashes = [(event_id, _hash(mended)) for event_id, stored, came, mended in both if stored == _hash(came)]
            cursor.executemany("insert into mended_hash values (%s, %s)", hashes)
    connection.execute(composed("migrations/versions/0013_mend_hashes", registry=relation(registry)))
    connection.execute("drop table mended_hash")


def _hash(row: Row) -> bytes:
    return blake2b(copy_line(row), digest_size=16).digest()
