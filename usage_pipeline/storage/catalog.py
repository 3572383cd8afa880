"""Reads our tables, views and columns from PostgreSQL's catalog, or from its copies `sql/catalog.json` and `sql/views.json`.

The asset definitions use the copies, because they must not ask a server. docs/write_catalog.py writes them after a migration,
and tests compare them with what the migrations make.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import msgspec
import psycopg

from usage_pipeline.storage.sql import load, sql_folder

SCHEMAS = ["app", "raw", "usage", "analytics", "stats", "ops"]
VIEWS_SCHEMA = "reporting"


@dataclass(frozen=True, slots=True)
class Column:
    """A column as the catalog describes it."""

    name: str
    data_type: str
    is_nullable: bool
    comment: str


@dataclass(frozen=True, slots=True)
class Table:
    """A table or view with its comment and its columns in their order."""

    comment: str
    columns: list[Column]


@dataclass(frozen=True, slots=True)
class View:
    """What a view of `reporting` is made of: the tables and views that it reads itself (schema.name).

    `lineage` has for each column those that its values come from (schema.name.column).
    """

    sources: list[str]
    lineage: dict[str, list[str]]


def columns(connection: psycopg.Connection, table: str) -> list[Column]:
    """The columns of `table` (schema.name) in their order.

    Raises psycopg.errors.UndefinedTable if there is no such table.
    """
    rows = connection.execute(load("storage/select_columns"), {"table": table})
    return [Column(name, data_type, nullable, comment or "") for name, data_type, nullable, comment in rows]


def read_catalog(connection: psycopg.Connection) -> dict[str, Table]:
    """All tables and views of our schemas, by name (schema.name)."""
    tables: dict[str, Table] = {}
    schemas = {"schemas": [*SCHEMAS, VIEWS_SCHEMA]}
    for name, table_comment, *column in connection.execute(load("storage/select_catalog"), schemas):
        tables.setdefault(name, Table(table_comment, [])).columns.append(Column(*column))
    return tables


def view_texts(connection: psycopg.Connection) -> dict[str, tuple[str, list[str]]]:
    """The definition and the sources of each view of `reporting`."""
    rows = connection.execute(load("storage/select_views"), {"schemas": [VIEWS_SCHEMA]})
    return {name: (text, sources) for name, text, sources in rows}


@cache
def stored_catalog() -> Mapping[str, Table]:
    """All tables and views of our schemas, from the copy."""
    return msgspec.json.decode((sql_folder() / "catalog.json").read_bytes(), type=dict[str, Table])


@cache
def stored_views() -> Mapping[str, View]:
    """What the views of `reporting` are made of, from the copy."""
    return msgspec.json.decode((sql_folder() / "views.json").read_bytes(), type=dict[str, View])


def write_catalog(tables: Mapping[str, Table], views: Mapping[str, View]) -> None:
    """Writes the copies again."""
    for name, content in (("catalog", tables), ("views", views)):
        text = msgspec.json.format(msgspec.json.encode(content), indent=1)
        (sql_folder() / f"{name}.json").write_bytes(text + b"\n")
