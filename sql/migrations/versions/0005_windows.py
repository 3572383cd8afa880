"""Roll-ups of usage events by hour, day, week and month, prices, and the first views for analysts.

Tables that differ in their window alone come from one file, and so do views that differ in their dimension.
"""

from alembic import op
from psycopg import sql as compose

from usage_pipeline.storage.sql import column_list, composed, relation

revision = "0005"
down_revision = "0004"

_TABLES = {
    "usage_hourly": ("hour_start", compose.SQL("timestamptz")),
    "usage_daily": ("usage_date", compose.SQL("date")),
    "usage_weekly": ("week_start", compose.SQL("date")),
    "usage_monthly": ("month_start", compose.SQL("date")),
}
_VIEWS = {"usage_by_team": ("team",), "usage_by_service": ("service",), "usage_by_model": ("provider", "model")}


def upgrade() -> None:
    tables = {
        name: composed(
            "migrations/versions/0005_usage_table",
            table=relation(f"analytics.{name}"),
            window=compose.Identifier(window),
            type=window_type,
        )
        for name, (window, window_type) in _TABLES.items()
    }
    views = {
        name: composed(
            "migrations/versions/0005_usage_by",
            view=relation(f"reporting.{name}"),
            dimensions=column_list(dimensions),
        )
        for name, dimensions in _VIEWS.items()
    }
    op.get_bind().exec_driver_sql(composed("migrations/versions/0005_windows", **tables, **views).as_string())
