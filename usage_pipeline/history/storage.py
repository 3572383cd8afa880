"""Connects to Dagster's storage in PostgreSQL, and checks that it is a version that pruning was written for."""

import psycopg

from usage_pipeline.settings import Settings
from usage_pipeline.storage.catalog import Column
from usage_pipeline.storage.connecting.database import Database
from usage_pipeline.storage.postgres import LOCK_SECONDS, connect_to
from usage_pipeline.storage.sql import load

# Alembic revisions of Dagster's storage whose tables were looked at: where another one derives statuses from, nobody knows yet.
KNOWN_REVISIONS = ("29b539ebc72a",)
# Tables that are pruned or looked at, and the columns that pruning relies on.
STORAGE_COLUMNS = {
    "asset_check_executions": (
        "asset_key",
        "check_name",
        "create_timestamp",
        "evaluation_event_storage_id",
        "execution_status",
        "id",
        "partition",
        "run_id",
    ),
    "asset_event_tags": ("event_id",),
    "asset_keys": ("asset_key", "last_run_id"),
    "bulk_actions": ("key", "status"),
    "event_logs": ("asset_key", "dagster_event_type", "id", "partition", "run_id", "timestamp"),
    "job_ticks": ("id",),
    "runs": ("backfill_id", "end_time", "id", "run_id", "status", "update_timestamp"),
}
# Dagster's tables have no comments; these are of the largest one.
EVENT_LOGS_COMMENT = "Dagster's event log: what each run, step and asset did, and what sensors reported"
EVENT_LOGS_COLUMNS = [
    Column(
        "id", "bigint", False, "Number of the event, ascending; the newest of its kind is what a status is derived from"
    ),
    Column("run_id", "character varying(255)", True, "Run that wrote it; empty for what was reported without a run"),
    Column("event", "text", False, "The whole event as JSON"),
    Column("dagster_event_type", "text", True, "Kind of event; null for a line that a run logged"),
    Column("timestamp", "timestamp without time zone", True, "When it happened, in UTC"),
    Column("step_key", "text", True, "Step that it is of"),
    Column("asset_key", "text", True, "Asset that it is of, as a JSON array"),
    Column("partition", "text", True, "Partition that it is of"),
]


class UnknownStorage(Exception):
    """Dagster's storage has an unknown version, or belongs to another instance. Nothing was removed."""


def connect_storage(settings: Settings) -> psycopg.Connection:
    """A connection to DAGSTER_POSTGRES_URL; the caller closes it. Raises UnknownStorage or PostgresUnavailable."""
    if settings.dagster_postgres_url is None:
        raise UnknownStorage(
            "expected DAGSTER_POSTGRES_URL to name Dagster's storage, came nothing; nothing was removed"
        )
    storage = Database.of_dagster(settings, settings.dagster_postgres_url.get_secret_value())
    return connect_to(storage, lock_seconds=LOCK_SECONDS)


def expect_known_storage(connection: psycopg.Connection, run_id: str) -> None:
    """Raises UnknownStorage unless the run `run_id` is stored here, in tables of a known revision."""
    rows = connection.execute(load("history/select_storage_columns"), {"tables": list(STORAGE_COLUMNS)})
    found = set(rows.fetchall())
    missing = [
        f"{table}.{column}"
        for table, columns in STORAGE_COLUMNS.items()
        for column in columns
        if (table, column) not in found
    ]
    if missing:
        raise UnknownStorage(
            f"DAGSTER_POSTGRES_URL: expected the tables of Dagster's storage, came none with {', '.join(missing)}; "
            "nothing was removed"
        )
    revisions = [revision for (revision,) in connection.execute("select version_num from alembic_version")]
    if not set(revisions) <= set(KNOWN_REVISIONS) or not revisions:
        raise UnknownStorage(
            f"expected Dagster's storage at revision {' or '.join(KNOWN_REVISIONS)}, came {', '.join(revisions) or 'none'}; "
            "nothing was removed. Look at what the new revision stores, then add it to KNOWN_REVISIONS"
        )
    if connection.execute("select from runs where run_id = %s", (run_id,)).fetchone() is None:
        raise UnknownStorage(
            f"DAGSTER_POSTGRES_URL: expected the storage of this instance, came another one: it has no run {run_id}; "
            "nothing was removed"
        )
