"""Metadata that assets share: ownership, table names, and column schemas read from PostgreSQL's comments."""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from usage_pipeline.storage.catalog import Column

OWNERS = ["team:data-platform"]


def table_metadata(table: str) -> dict[str, Any]:
    """Static metadata of an asset that is a PostgreSQL table (schema.name)."""
    return {"dagster/table_name": table}


def column_schema(columns: list[Column]) -> dict[str, Any]:
    """The column schema of a table, as the UI shows it on the asset's page."""
    return {
        "dagster/column_schema": dg.TableSchema(
            columns=[
                dg.TableColumn(
                    column.name,
                    type=column.data_type,
                    description=column.comment,
                    constraints=dg.TableColumnConstraints(nullable=column.is_nullable),
                )
                for column in columns
            ]
        )
    }


def column_lineage(lineage: Mapping[str, tuple[str, ...]]) -> dict[str, Any]:
    """Which columns (schema.table.column) each column comes from, as the UI shows it."""
    return {
        "dagster/column_lineage": dg.TableColumnLineage(
            {column: [_column_dep(source) for source in sources] for column, sources in lineage.items()}
        )
    }


def _column_dep(source: str) -> dg.TableColumnDep:
    *table, column = source.split(".")
    return dg.TableColumnDep(asset_key=dg.AssetKey(table), column_name=column)


def row_counts(rows: int, changed_rows: int, sums: Mapping[str, int]) -> dict[str, Any]:
    """What a replaced partition holds: its row count, how many rows were not right before, and the sum of each count."""
    return {
        "dagster/partition_row_count": rows,
        "changed_rows": changed_rows,
        **{f"sum_{name}": value for name, value in sums.items() if name != "rows"},
    }
