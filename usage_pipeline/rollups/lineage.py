"""Column lineage: the columns (schema.table.column) that each column of a made table comes from, all in one place.

Weeks and months name columns of `analytics.usage_daily`. Its asset also stores the users and latencies that they need.
"""

from collections.abc import Mapping

from usage_pipeline.rollups.issue_stats import ISSUE_STATS_LINEAGE, ISSUE_STATS_TABLE
from usage_pipeline.rollups.rankings import RANKINGS
from usage_pipeline.rollups.window_tables import TOKENS, UNIT_COLUMNS, WINDOW_TABLES

Lineage = Mapping[str, tuple[str, ...]]
# These columns identify a row or say when it was stored, so they come from no other column. Where such a column does come from
# another one, the lineage of the table says so.
OF_THE_ROW = frozenset({"id", "date", "rank", "ranking_date", "created_at", "updated_at"})
_EVENTS = "analytics.usage_events"
_DIMENSIONS = ("team", "service", "provider", "model")
_PERCENTILES = ("latency_p50_ms", "latency_p95_ms", "latency_p99_ms")
_PRICED = tuple(
    f"{_EVENTS}.{name}"
    for name in (
        *("provider", "model", "service_tier", "event_time"),
        *("input_tokens", "output_tokens", *UNIT_COLUMNS, "other_units"),
    )
)
_REPORTED = (f"{_EVENTS}.cost_usd",)


def _same(source: str, *names: str) -> Lineage:
    """Lineage of columns that come from columns of the same name."""
    return {name: (f"{source}.{name}",) for name in names}


_OF_EVENTS: Lineage = {
    **_same(_EVENTS, *_DIMENSIONS, *TOKENS, "other_units"),
    "requests": (f"{_EVENTS}.event_id",),
    "errors": (f"{_EVENTS}.status_code", f"{_EVENTS}.error_type"),
    **dict.fromkeys(_PERCENTILES, (f"{_EVENTS}.latency_ms",)),
    "distinct_users": (f"{_EVENTS}.user_id",),
    **dict.fromkeys(("cost_usd", "unpriced_requests"), (*_REPORTED, *_PRICED)),
    **dict.fromkeys(("list_cost_usd", "unlisted_requests"), _PRICED),
    **dict.fromkeys(("reported_cost_usd", "reported_requests"), _REPORTED),
}
_DAYS = WINDOW_TABLES["day"].table
_WINDOWS: Mapping[str, Lineage] = {
    table.table: {table.column: (f"{_EVENTS}.event_time",), **_OF_EVENTS}
    if grain in ("hour", "day")
    else {table.column: (f"{_DAYS}.usage_date",), **_same(_DAYS, *_OF_EVENTS)}
    for grain, table in WINDOW_TABLES.items()
}
COLUMN_LINEAGE: Mapping[str, Lineage] = {
    "usage.api_key_daily": _same(
        "raw.api_key_deltas",
        "usage_date",
        "api_key_id",
        "total_requests",
        "successful_requests",
        "failed_requests",
        "total_file_size",
        "total_files_uploaded",
        "last_used_at",
    ),
    "usage.provider_daily": _same(
        "raw.provider_deltas", "usage_date", "api_key_id", "provider", "upload_count", "total_file_size", "last_used_at"
    ),
    "usage.token_daily": _same("raw.token_deltas", "usage_date", "token_id", "usage_count", "last_used_at"),
    **_WINDOWS,
    ISSUE_STATS_TABLE: ISSUE_STATS_LINEAGE,
    **{ranking.table: ranking.lineage for ranking in RANKINGS},
}
