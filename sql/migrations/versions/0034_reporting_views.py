"""Views for analysts of users, days, weeks, months, error types, API keys, tags and charge-back; the rest is in the SQL file.

Views that differ in their table and its keys alone come from one file each, `0034_usage_of.sql` and `0034_latency_by.sql`.
"""

from pathlib import Path

from alembic import op
from psycopg import sql as compose

from usage_pipeline.storage.sql import column_list, composed, relation

revision = "0034"
down_revision = "0033"

_GROUP = ("team", "service", "provider", "model")
_USAGE = (
    ("usage_by_day", "usage_daily", ("usage_date", *_GROUP), True),
    ("usage_by_week", "usage_weekly", ("week_start", *_GROUP), True),
    ("usage_by_month", "usage_monthly", ("month_start", *_GROUP), True),
    ("usage_by_api_key", "usage_api_key_daily", ("usage_date", "api_key_id", *_GROUP), False),
    ("usage_by_tag", "usage_tag_daily", ("usage_date", "tag", "value", "is_rest", "team", "provider", "model"), False),
)
_DAY = {"window": compose.Identifier("usage_date"), "window_of_day": compose.SQL("daily.usage_date")}
_WEEK = {
    "window": compose.Identifier("week_start"),
    "window_of_day": compose.SQL("date_trunc('week', daily.usage_date::timestamp)::date"),
}
_LATENCY = (
    ("latency_by_service", ("service",), _DAY),
    ("latency_by_service_and_week", ("service",), _WEEK),
    ("latency_by_model", ("provider", "model"), _DAY),
)


def upgrade() -> None:
    bind = op.get_bind()
    connection = bind.connection.driver_connection
    distinct = composed("migrations/versions/0034_distinct")
    for name, table, keys, is_distinct in _USAGE:
        parts = {
            "view": relation(f"reporting.{name}"),
            "source": relation(f"analytics.{table}"),
            "keys": column_list(keys),
            "distinct": distinct if is_distinct else compose.SQL(""),
        }
        connection.execute(composed("migrations/versions/0034_usage_of", **parts))
        connection.execute(composed("migrations/versions/0023_columns", **parts))
    for name, dimensions, window in _LATENCY:
        parts = {"view": relation(f"reporting.{name}"), "dimensions": column_list(dimensions), **window}
        connection.execute(composed("migrations/versions/0034_latency_by", **parts))
    bind.exec_driver_sql(Path(__file__).with_suffix(".sql").read_text(encoding="utf-8"))
