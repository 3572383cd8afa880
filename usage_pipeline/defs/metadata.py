"""Metadata that assets share: owners, tables with their comments, columns and lineage, counts."""

from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import dagster as dg

from usage_pipeline.defs.tags import tags_of
from usage_pipeline.rollups.lineage import COLUMN_LINEAGE
from usage_pipeline.storage.catalog import Column, Table, stored_catalog
from usage_pipeline.storage.table_profile import Profile, nullable

OWNERS = ["team:data-platform"]


def table_metadata(table: str) -> dict[str, Any]:
    """Static metadata of an asset that is a PostgreSQL table (schema.name)."""
    return {"dagster/table_name": table}


def with_table_facts(
    assets: Iterable[dg.AssetsDefinition | dg.AssetSpec],
) -> Sequence[dg.AssetsDefinition | dg.AssetSpec]:
    """The assets, each with tags, the comment of its table, its columns, and where the columns come from.

    The definition carries these, not each materialization: they are the same for all, and larger than the rest.
    """
    return dg.map_asset_specs(_with_table_facts, assets)


def _with_table_facts(spec: dg.AssetSpec) -> dg.AssetSpec:
    name = str(spec.metadata.get("dagster/table_name"))
    table, lineage = stored_catalog().get(name), COLUMN_LINEAGE.get(name)
    facts: dict[str, Any] = {}
    if table:
        facts = {"table_comment": table.comment, **column_schema(table.columns)}
    if lineage:
        facts |= column_lineage(lineage)
    return spec.merge_attributes(metadata=facts, tags=tags_of(spec.key, _column_names(spec, table)))


def _column_names(spec: dg.AssetSpec, table: Table | None) -> list[str]:
    if table:
        return [column.name for column in table.columns]
    schema = spec.metadata.get("dagster/column_schema")
    return [column.name for column in schema.columns] if isinstance(schema, dg.TableSchema) else []


def column_schema(columns: Iterable[Column]) -> dict[str, Any]:
    """The columns of a table and their comments, as the UI shows them on the asset's page."""
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
    schema, table, column = source.split(".")
    # The one schema whose assets have another name than their tables: raw rows are snapshots.
    return dg.TableColumnDep(dg.AssetKey(["snapshots" if schema == "raw" else schema, table]), column)


def row_counts(rows: int, changed_rows: int, sums: Mapping[str, int]) -> dict[str, Any]:
    """Metadata of a partition: its rows, how many of them the run changed, and the sum of each count."""
    return {
        "dagster/partition_row_count": rows,
        "changed_rows": changed_rows,
        **{f"sum_{name}": value for name, value in sums.items() if name != "rows"},
    }


def table_rows(table: str, profile: Profile) -> dict[str, Any]:
    """Metadata of an asset without partitions: how many rows its table has, and shares of nulls."""
    exactness = {} if profile.is_exact else {"row_count_is": "PostgreSQL's estimate"}
    return {"dagster/row_count": profile.rows, **exactness, **null_shares(table, profile.null_shares)}


def null_shares(table: str, shares: Mapping[str, float]) -> dict[str, Any]:
    """The share of nulls (0 to 1) in each nullable column of the rows that were looked at."""
    return {"null_shares": dg.MetadataValue.json(dict(shares)) if nullable(table) else "no column may be null"}


def plot_metadata(images: Mapping[str, bytes]) -> dict[str, Any]:
    """Metadata with pictures (PNG by title), which the UI shows after a click. Empty without pictures.

    This is the only Markdown, and the titles are ours: the UI renders it with the rights of its user, so that a picture
    `![x](/graphql?query=...)` in text from outside would be a request of theirs.
    """
    shown = [f"![{title}](data:image/png;base64,{b64encode(image).decode()})" for title, image in images.items()]
    return {"plot": dg.MetadataValue.md("\n\n".join(shown))} if shown else {}
