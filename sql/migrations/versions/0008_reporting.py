"""The views of schema `reporting`; who may read them is settled after each migration by `storage/analyst_role.py`.

Views that differ in their dimensions alone come from one file each, `0008_<what>_by.sql`, put in their places in the long one.
"""

from alembic import op
from psycopg import sql as compose

from usage_pipeline.storage.sql import column_list, composed, relation

revision = "0008"
down_revision = "0007"

_DAY = {"window": compose.Identifier("usage_date"), "window_of_day": compose.SQL("daily.usage_date")}
_WEEK = {
    "window": compose.Identifier("week_start"),
    "window_of_day": compose.SQL("date_trunc('week', daily.usage_date::timestamp)::date"),
}
_VIEWS = (
    ("usage_by", "usage_by_team", ("team",), {}),
    ("usage_by", "usage_by_service", ("service",), {}),
    ("usage_by", "usage_by_model", ("provider", "model"), {}),
    ("cost_by", "cost_by_team_and_month", ("team", "provider", "model"), {}),
    ("cost_by", "cost_by_model_and_month", ("provider", "model"), {}),
    ("latency_by", "latency_by_service", ("service",), _DAY),
    ("latency_by", "latency_by_service_and_week", ("service",), _WEEK),
    ("latency_by", "latency_by_model", ("provider", "model"), _DAY),
    ("error_rate_by", "error_rate_by_provider", ("provider",), {}),
    ("error_rate_by", "error_rate_by_service", ("service", "provider", "model"), {}),
)


def upgrade() -> None:
    views = {
        name: composed(
            f"migrations/versions/0008_{what}",
            view=relation(f"reporting.{name}"),
            dimensions=column_list(dimensions),
            users_of_group=_equal("users", "daily", dimensions),
            **window,
        )
        for what, name, dimensions, window in _VIEWS
    }
    op.get_bind().exec_driver_sql(composed("migrations/versions/0008_reporting", **views).as_string())


def _equal(one: str, other: str, names: tuple[str, ...]) -> compose.Composed:
    return compose.SQL(" and ").join(
        compose.SQL("{} = {}").format(compose.Identifier(one, name), compose.Identifier(other, name)) for name in names
    )
