"""Reads our tables and columns from PostgreSQL's catalog, or from its copy `sql/catalog.json`.

The asset definitions use the copy, because they must not ask a server. docs/write_catalog.py writes it after a migration, and a
test compares it with what the migrations make.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import msgspec
import psycopg

from usage_pipeline.storage.sql import load, sql_folder

SCHEMAS = ["app", "raw", "usage", "analytics", "stats", "ops"]


@dataclass(frozen=True, slots=True)
class Column:
    """A column as the catalog describes it."""

    name: str
    data_type: str
    is_nullable: bool
    comment: str


@dataclass(frozen=True, slots=True)
class Table:
    """A table with its comment and its columns in their order."""

    comment: str
    columns: list[Column]


def columns(connection: psycopg.Connection, table: str) -> list[Column]:
    """The columns of `table` (schema.name) in their order.

    Raises psycopg.errors.UndefinedTable if there is no such table.
    """
    rows = connection.execute(load("storage/select_columns"), {"table": table})
    return [Column(name, data_type, nullable, comment or "") for name, data_type, nullable, comment in rows]


def read_catalog(connection: psycopg.Connection) -> dict[str, Table]:
    """All tables of our schemas, by name (schema.name)."""
    tables: dict[str, Table] = {}
    for name, table_comment, *column in connection.execute(load("storage/select_catalog"), {"schemas": SCHEMAS}):
        tables.setdefault(name, Table(table_comment, [])).columns.append(Column(*column))
    return tables


@cache
def stored_catalog() -> Mapping[str, Table]:
    """All tables of our schemas, from the copy."""
    return msgspec.json.decode((sql_folder() / "catalog.json").read_bytes(), type=dict[str, Table])


def write_catalog(connection: psycopg.Connection) -> None:
    """Writes the copy again."""
    text = msgspec.json.format(msgspec.json.encode(read_catalog(connection)), indent=1)
    (sql_folder() / "catalog.json").write_bytes(text + b"\n")
