"""Writes sql/catalog.json and sql/views.json: the tables, views and columns that the asset definitions tell of.

They are what the migrations make. Where the columns of views come from is found by SQLGlot, which follows them through a query.

uv run python docs/write_catalog.py
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path

import psycopg
from sqlglot import exp
from sqlglot.lineage import lineage

from usage_pipeline.local.servers.both import LocalServers
from usage_pipeline.storage.catalog import Table, View, read_catalog, view_texts, write_catalog
from usage_pipeline.storage.migrations import migrate


def main() -> None:
    """Migrates a database of its own, and writes what is in it."""
    with tempfile.TemporaryDirectory() as folder, LocalServers(Path(folder), durable=False) as servers:
        migrate(servers.database_url)
        with psycopg.connect(servers.database_url) as connection:
            write_catalog(read_catalog(connection), read_views(connection))


def read_views(connection: psycopg.Connection) -> dict[str, View]:
    """What each view of `reporting` is made of."""
    tables = read_catalog(connection)
    schemas: dict[str, dict[str, dict[str, str]]] = {}
    for name, table in tables.items():
        schema, _, relation = name.partition(".")
        schemas.setdefault(schema, {})[relation] = {column.name: column.data_type for column in table.columns}
    return {
        name: View(
            sources, {column.name: _comes_from(column.name, text, schemas, tables) for column in tables[name].columns}
        )
        for name, (text, sources) in view_texts(connection).items()
    }


def _comes_from(
    column: str, text: str, schemas: dict[str, dict[str, dict[str, str]]], tables: Mapping[str, Table]
) -> list[str]:
    """Columns of tables and other views. A function, a list of values or PostgreSQL's own catalog is none of them."""
    found = set()
    for node in lineage(column, text.strip().removesuffix(";"), schema=schemas, dialect="postgres").walk():
        if isinstance(node.source, exp.Table) and f"{node.source.db}.{node.source.name}" in tables:
            found.add(f"{node.source.db}.{node.source.name}.{node.name.rpartition('.')[2]}")
    return sorted(found)


if __name__ == "__main__":
    main()
