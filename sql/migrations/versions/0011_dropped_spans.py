"""Marks of what was dropped, and what is kept of it; spans that were dropped before get theirs as far as they can be found.

`0011_dropped_days.sql` looks at a daily table of counters, `0011_dropped_hours.sql` at events.
"""

from pathlib import Path

from alembic import op
from psycopg import sql as compose

from usage_pipeline.storage.sql import composed, relation

revision = "0011"
down_revision = "0010"

_DAILY = {
    "raw.api_key_deltas": ("usage.api_key_daily", "total_requests"),
    "raw.provider_deltas": ("usage.provider_daily", "upload_count"),
    "raw.token_deltas": ("usage.token_daily", "usage_count"),
}
_HAS_EXTENSION = "select count(*) from pg_extension where extname = 'timescaledb'"
_NATIVE_CHUNKS = """
    select
        (regexp_match(bounds.text, 'FROM \\(''([^'']+)''\\)'))[1]::timestamptz as chunk_start,
        (regexp_match(bounds.text, 'TO \\(''([^'']+)''\\)'))[1]::timestamptz as chunk_end
    from pg_inherits
    join pg_class as partition on partition.oid = pg_inherits.inhrelid
    cross join lateral (select pg_get_expr(partition.relpartbound, partition.oid) as text) as bounds
    where pg_inherits.inhparent = 'analytics.usage_events'::regclass
      and partition.relpartbound is not null
      and bounds.text is not null
"""
_HYPERTABLE_CHUNKS = """
    union all
    select range_start, range_end
    from timescaledb_information.chunks
    where hypertable_schema = 'analytics'
      and hypertable_name = 'usage_events'
"""


def upgrade() -> None:
    connection = op.get_bind()
    # The bounds of partitions are shown in the time zone of the session.
    connection.exec_driver_sql("set local timezone = 'UTC'")
    connection.exec_driver_sql(Path(__file__).with_suffix(".sql").read_text(encoding="utf-8"))
    for raw, (daily, count) in _DAILY.items():
        names = {
            "raw": relation(raw),
            "raw_name": compose.Literal(raw),
            "family": compose.Literal(raw.removeprefix("raw.").removesuffix("_deltas")),
            "daily": relation(daily),
            "count": compose.Identifier(count),
        }
        connection.exec_driver_sql(composed("migrations/versions/0011_dropped_days", **names).as_string())
    chunks = _NATIVE_CHUNKS
    if connection.exec_driver_sql(_HAS_EXTENSION).scalar():
        chunks += _HYPERTABLE_CHUNKS
    connection.exec_driver_sql(
        composed("migrations/versions/0011_dropped_hours", chunks=compose.SQL(chunks)).as_string()
    )
