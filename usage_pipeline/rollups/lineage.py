"""Column lineage: the columns (schema.table.column) that each column of a made table comes from, all in one place.

Weeks and months name columns of `analytics.usage_daily`. Its asset also stores the users and latencies that they need. Views
have theirs in `sql/views.json`, from their queries.
"""

from collections.abc import Mapping

from usage_pipeline.rollups.issue_stats import ISSUE_STATS_LINEAGE, ISSUE_STATS_TABLE
from usage_pipeline.rollups.rankings import RANKINGS
from usage_pipeline.rollups.window_tables import DAY_PARTS, TOKENS, UNIT_COLUMNS, WINDOW_TABLES, WindowTable

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
_USERS, _LATENCIES = "analytics.usage_user_daily", "analytics.usage_latency_daily"
# Where a column of a part of the day does not come from the events as that of the day does.
_OF_PARTS: Mapping[str, Lineage] = {
    "usage_user_daily": _same(_EVENTS, "user_id"),
    "usage_latency_daily": dict.fromkeys(("latencies_ms", "requests"), (f"{_EVENTS}.latency_ms",)),
    "usage_tag_daily": dict.fromkeys(("tag", "value", "is_rest"), (f"{_EVENTS}.tags",)),
    "usage_api_key_daily": _same(_EVENTS, "api_key_id"),
    "usage_error_daily": _same(_EVENTS, "error_type", "status_code"),
    "usage_user_team_daily": {name: (f"{_USERS}.{name}",) for name in ("usage_date", "user_id", *_OF_EVENTS)},
    "usage_latency_dimension_daily": {
        **_same(_LATENCIES, "usage_date", "latencies_ms", "requests"),
        **dict.fromkeys(("dimension", "value"), tuple(f"{_LATENCIES}.{name}" for name in _DIMENSIONS)),
    },
}


def _part(part: WindowTable) -> Lineage:
    every = {part.column: (f"{_EVENTS}.event_time",), **_OF_EVENTS, **_OF_PARTS[part.name]}
    return {name: every[name] for name in (part.column, *part.key, *part.values)}


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
    **{part.table: _part(part) for part in DAY_PARTS},
    ISSUE_STATS_TABLE: ISSUE_STATS_LINEAGE,
    **{ranking.table: ranking.lineage for ranking in RANKINGS},
}
