"""What each materialized partition says of its rows; the newest of a run has pictures, too."""

from datetime import date, datetime
from typing import Any

from usage_pipeline.defs.metadata import null_shares, plot_metadata
from usage_pipeline.plots.series import partition_pictures
from usage_pipeline.storage.table_profile import partition_null_shares


def about_partition(
    connection: Any, table: str, column: str, window: date | datetime, *, is_newest: bool
) -> dict[str, Any]:
    """Shares of nulls in the rows of a window, by the column that it is in; pictures of what led up to it if it is the newest.

    One picture a run: a backfill of half a year must not draw, and store, one for each of its days. The connection is the
    domain's affair.
    """
    pictures = partition_pictures(connection, table, window) if is_newest else {}
    shares = partition_null_shares(connection, table, column, window)
    return {**null_shares(table, shares), **plot_metadata(pictures)}
