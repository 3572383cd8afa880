"""A change of USAGE_TIMEZONE is refused until `rezone` has done it; the statements are in the SQL file of the same name."""

from pathlib import Path

from alembic import op

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    op.get_bind().exec_driver_sql(Path(__file__).with_suffix(".sql").read_text(encoding="utf-8"))
