"""Storage lifecycle and erasures; where TimescaleDB fits, and nothing is stored natively, events become hypertables."""

import logging
from pathlib import Path

from alembic import op

from usage_pipeline.storage.timescale import why_native

revision = "0006"
down_revision = "0005"

log = logging.getLogger("usage_pipeline.migrations")

_FOLDER = Path(__file__).parent
_NATIVE_PARTITIONS = (
    "select count(*) from pg_inherits where inhparent in"
    " ('analytics.usage_events'::regclass, 'analytics.message_archives'::regclass)"
)


def upgrade() -> None:
    connection = op.get_bind()
    connection.exec_driver_sql((_FOLDER / "0006_lifecycle.sql").read_text(encoding="utf-8"))
    if why := why_native(connection.connection.driver_connection):
        log.info("storage: native partitions, since %s", why)
    elif connection.exec_driver_sql(_NATIVE_PARTITIONS).scalar():
        log.info("storage: native partitions; TimescaleDB is installed, but this database began natively and stays so")
    else:
        connection.exec_driver_sql((_FOLDER / "0006_hypertables.sql").read_text(encoding="utf-8"))
        log.info("storage: TimescaleDB; usage events and message archives are hypertables")
