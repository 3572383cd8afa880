"""Prices of one's own in versions, as layers above those of the price package; the statements are in the SQL file.

Releases before looked up input and output alone. Models are looked up again in the installed version of the package, since new
days use it: they would not find the prices of other units there. Versions of earlier packages stay as they are.
"""

from importlib.metadata import version
from pathlib import Path

from alembic import op

revision = "0024"
down_revision = "0023"


def upgrade() -> None:
    bind = op.get_bind()
    bind.exec_driver_sql(Path(__file__).with_suffix(".sql").read_text(encoding="utf-8"))
    installed = {"price_version": f"genai-prices {version('genai-prices')}"}
    for table in ("model_prices", "model_lookups"):
        bind.exec_driver_sql(f"delete from analytics.{table} where price_version = %(price_version)s", installed)  # noqa: S608  # names of ours
