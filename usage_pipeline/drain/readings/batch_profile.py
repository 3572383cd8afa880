"""What drained batches stored in a raw table: rows, bytes, and shares of nulls."""

from dataclasses import dataclass
from datetime import datetime

import psycopg
from psycopg import sql as compose

from usage_pipeline.drain.readings.ledger import FamilySummary
from usage_pipeline.storage.catalog import stored_catalog
from usage_pipeline.storage.sql import composed, relation
from usage_pipeline.storage.table_profile import MOST_ROWS, Profile, null_counts, null_shares


@dataclass(frozen=True, slots=True)
class BatchProfile(Profile):
    """A profile with `bytes`: the size of all values as PostgreSQL stores them, without its overhead for rows and pages."""

    bytes: int = 0


def profile_batches(
    connection: psycopg.Connection, table: str, summary: FamilySummary, since: datetime, until: datetime
) -> BatchProfile:
    """Profiles the rows in `table` (schema.name) of the batches in `summary`: those applied after `since`, up to `until`."""
    sizes = compose.SQL(" + ").join(
        compose.SQL("coalesce(pg_column_size({}), 0)").format(compose.Identifier("part", column.name))
        for column in stored_catalog()[table].columns
    )
    query = composed("drain/profile_batches", table=relation(table), sizes=sizes, counts=null_counts(table))
    parameters = {
        "family": summary.family,
        "since": since,
        "until": until,
        "usage_dates": summary.usage_dates,
        "most": MOST_ROWS,
    }
    [(rows, size, filled)] = connection.execute(query, parameters).fetchall()
    return BatchProfile(rows, null_shares(table, rows, filled), bytes=size)
