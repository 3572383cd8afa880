"""Costs of all units, tiers and reports in roll-ups, in the views over them, and by tag; the statements are in the SQL file.

Views that differ in their dimensions alone come from one file each, `0023_<what>_by.sql`.
"""

from pathlib import Path

from alembic import op
from psycopg import sql as compose

from usage_pipeline.storage.sql import column_list, composed, relation

revision = "0023"
down_revision = "0022"

_VIEWS = (
    ("usage_by", "usage_by_team", ("team",)),
    ("usage_by", "usage_by_service", ("service",)),
    ("usage_by", "usage_by_model", ("provider", "model")),
    ("cost_by", "cost_by_team_and_month", ("team", "provider", "model")),
    ("cost_by", "cost_by_model_and_month", ("provider", "model")),
)
# Views whose columns mean what those of the tables under them mean.
_DESCRIBED = (
    "analytics.usage_hourly_live",
    "reporting.usage_by_team",
    "reporting.usage_by_service",
    "reporting.usage_by_model",
    "reporting.usage_by_user",
    "reporting.usage_by_hour",
)

_OF_NEW_MODELS = (
    "comment on column analytics.usage_hourly_live.unpriced_requests is 'Requests that are not in cost_usd: nobody said what "
    "was charged, and no price is known for their model, or their usage is not known; models that are new since the last "
    "roll-up count here until the next one'"
)


def upgrade() -> None:
    bind = op.get_bind()
    bind.exec_driver_sql(Path(__file__).with_suffix(".sql").read_text(encoding="utf-8"))
    connection = bind.connection.driver_connection
    for what, name, dimensions in _VIEWS:
        view = composed(
            f"migrations/versions/0023_{what}",
            view=relation(f"reporting.{name}"),
            dimensions=column_list(dimensions),
            users_of_group=_equal("users", "daily", dimensions),
        )
        connection.execute(view)
    for name in _DESCRIBED:
        connection.execute(composed("migrations/versions/0023_columns", view=relation(name)))
    bind.exec_driver_sql(_OF_NEW_MODELS)


def _equal(one: str, other: str, names: tuple[str, ...]) -> compose.Composed:
    return compose.SQL(" and ").join(
        compose.SQL("{} = {}").format(compose.Identifier(one, name), compose.Identifier(other, name)) for name in names
    )
