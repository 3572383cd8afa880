"""What PostgreSQL's catalog says of our tables."""

from dataclasses import dataclass

import psycopg

from usage_pipeline.storage.sql import load


@dataclass(frozen=True, slots=True)
class Column:
    """A column as the catalog describes it."""

    name: str
    data_type: str
    is_nullable: bool
    comment: str


def columns(connection: psycopg.Connection, table: str) -> list[Column]:
    """The columns of `table` (schema.name) in their order.

    Raises psycopg.errors.UndefinedTable if there is no such table.
    """
    rows = connection.execute(load("storage/select_columns"), {"table": table})
    return [Column(name, data_type, nullable, comment or "") for name, data_type, nullable, comment in rows]
