"""Metadata about the rows of a partition. The newest partition of a run also gets pictures."""

from datetime import date, datetime
from typing import Any

from usage_pipeline.defs.metadata import null_shares, plot_metadata
from usage_pipeline.plots.series import partition_pictures
from usage_pipeline.storage.table_profile import partition_null_shares


def about_partition(
    connection: Any, table: str, column: str, window: date | datetime, *, is_newest: bool
) -> dict[str, Any]:
    """Shares of nulls in the rows whose `column` has the value `window`. The newest window gets pictures of the time before it.

    Only one partition of a run gets pictures: a backfill of half a year must not draw and store one for each day.
    """
    pictures = partition_pictures(connection, table, window) if is_newest else {}
    shares = partition_null_shares(connection, table, column, window)
    return {**null_shares(table, shares), **plot_metadata(pictures)}
