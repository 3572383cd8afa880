"""All units of usage, tiers, costs as senders report them, tags; the statements are in the SQL files of that name."""

from pathlib import Path

from alembic import op

from usage_pipeline.storage.sql import composed, relation

revision = "0022"
down_revision = "0021"

_FOLDER = Path(__file__).parent
_WINDOWS = ("usage_hourly", "usage_daily", "usage_weekly", "usage_monthly", "usage_user_daily")
_KEPT = ("usage_hourly_kept", "usage_user_daily_kept")


def upgrade() -> None:
    bind = op.get_bind()
    bind.exec_driver_sql((_FOLDER / "0022_units.sql").read_text(encoding="utf-8"))
    connection = bind.connection.driver_connection
    for table in (*_WINDOWS, *_KEPT):
        connection.execute(composed("migrations/versions/0022_units_of_windows", table=relation(f"analytics.{table}")))
