"""The tables that roll-ups of usage events replace window by window, and the queries that are written for all of them."""

from collections.abc import Mapping
from dataclasses import dataclass

from psycopg import sql as compose

from usage_pipeline.rollups.calendar import Grain
from usage_pipeline.storage.sql import column_list, composed, relation

_GROUP = ("team", "service", "provider", "model")
_COUNTS = ("requests", "errors", "input_tokens", "output_tokens", "total_tokens")
_LATENCIES = ("latency_p50_ms", "latency_p95_ms", "latency_p99_ms")
_COST = ("cost_usd", "unpriced_requests")


@dataclass(frozen=True, slots=True)
class WindowTable:
    """The table of a grain, or one that days are made from.

    `column` says which window a row belongs to and `key` which row of the window it is; `values` are what it says.
    """

    name: str
    column: str
    key: tuple[str, ...] = _GROUP
    values: tuple[str, ...] = (*_COUNTS, *_LATENCIES, "distinct_users", *_COST)

    @property
    def table(self) -> str:
        return f"analytics.{self.name}"

    def replacement(self, query: str) -> compose.Composed:
        """A query of `sql/` whose `source` are the rows that a window should have, and which ends with `{store_source}`."""
        end = composed(
            "rollups/store_source",
            **self._names(),
            key=column_list(self.key),
            source_key=column_list(self.key, of="source"),
            stored_key=column_list(self.key, of="t"),
            values=column_list(self.values),
            source_values=column_list(self.values, of="source"),
            stored_values=column_list(self.values, of="t"),
            excluded_values=column_list(self.values, of="excluded"),
        )
        return composed(query, **self._names(), store_source=end)

    def _names(self) -> dict[str, compose.Identifier]:
        return {"table": relation(self.table), "window": compose.Identifier(self.column)}

    def compose(self, query: str) -> compose.Composed:
        """A query of `sql/` that is written for the tables of all grains."""
        return composed(query, **self._names())


WINDOW_TABLES: Mapping[Grain, WindowTable] = {
    "hour": WindowTable("usage_hourly", "hour_start"),
    "day": WindowTable("usage_daily", "usage_date"),
    "week": WindowTable("usage_weekly", "week_start"),
    "month": WindowTable("usage_monthly", "month_start"),
}
# What days, weeks and months are merged from; replaced with their day.
DAY_PARTS = (
    WindowTable("usage_user_daily", "usage_date", key=(*_GROUP, "user_id"), values=(*_COUNTS, *_COST)),
    WindowTable("usage_latency_daily", "usage_date", values=("latencies_ms", "requests")),
)
