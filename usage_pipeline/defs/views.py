"""`reporting/*`: the views for analysts. Nothing makes them: they are in the catalog to show who reads a table or column."""

from collections.abc import Iterable, Mapping

import dagster as dg

from usage_pipeline.defs.metadata import OWNERS, column_lineage, table_metadata
from usage_pipeline.storage.catalog import View, stored_catalog, stored_views


def reporting_views(assets: Iterable[dg.AssetsDefinition | dg.AssetSpec]) -> list[dg.AssetSpec]:
    """One for each view, with its columns' lineage. `assets` are all others: lineage leads to them alone."""
    views = stored_views()
    keys = _keys_by_table(assets) | {name: dg.AssetKey(name.split(".")) for name in views}
    return [_spec(name, view, keys) for name, view in views.items()]


def _spec(name: str, view: View, keys: Mapping[str, dg.AssetKey]) -> dg.AssetSpec:
    lineage = {
        column: tuple(source for source in sources if source.rpartition(".")[0] in keys)
        for column, sources in view.lineage.items()
    }
    known = {column: sources for column, sources in lineage.items() if sources}
    return dg.AssetSpec(
        keys[name],
        deps=[keys[source] for source in view.sources if source in keys],
        group_name="reporting",
        owners=OWNERS,
        kinds={"postgres", "view"},
        description=f"{stored_catalog()[name].comment}. View `{name}`.",
        metadata={**table_metadata(name), **(column_lineage(known) if known else {})},
    )


def _keys_by_table(assets: Iterable[dg.AssetsDefinition | dg.AssetSpec]) -> dict[str, dg.AssetKey]:
    specs = [spec for one in assets for spec in (one.specs if isinstance(one, dg.AssetsDefinition) else [one])]
    return {
        str(spec.metadata["dagster/table_name"]): spec.key for spec in specs if "dagster/table_name" in spec.metadata
    }
