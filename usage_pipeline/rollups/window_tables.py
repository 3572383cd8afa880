"""The tables that roll-ups of usage events replace, one window at a time, and the queries that these tables share."""

from collections.abc import Mapping
from dataclasses import dataclass

from psycopg import sql as compose

from usage_pipeline.rollups.calendar import Grain
from usage_pipeline.storage.sql import column_list, composed, relation

GROUP = ("team", "service", "provider", "model")
# Of the units that are priced, these have columns; `other_units` has the rest by name.
UNIT_COLUMNS = (
    "cache_read_tokens",
    "cache_write_tokens",
    "output_reasoning_tokens",
    "input_audio_tokens",
    "output_audio_tokens",
    "input_image_tokens",
    "output_image_tokens",
)
TOKENS = ("input_tokens", "output_tokens", "total_tokens", *UNIT_COLUMNS, "unattributed_tokens")
_COUNTS = ("requests", "errors", *TOKENS, "other_units")
_LATENCIES = ("latency_p50_ms", "latency_p95_ms", "latency_p99_ms")
_COST = (
    "cost_usd",
    "list_cost_usd",
    "reported_cost_usd",
    "reported_requests",
    "unpriced_requests",
    "unlisted_requests",
)


@dataclass(frozen=True, slots=True)
class Member:
    """A column of a day's table, and the expression of an event that it holds: never null."""

    column: str
    of_event: str


@dataclass(frozen=True, slots=True)
class WindowTable:
    """The table of a grain, or a table of parts from which days, weeks and months are merged.

    `column` holds the window of a row, and `key` identifies the row within its window. `values` are the other columns. In the
    unique index the columns of `digested` are one, since together they may be too long for an index. `member`: what days are
    apart by, besides the group.
    """

    name: str
    column: str
    key: tuple[str, ...] = GROUP
    values: tuple[str, ...] = (*_COUNTS, *_LATENCIES, "distinct_users", *_COST)
    digested: tuple[str, ...] = GROUP
    member: Member | None = None

    @property
    def table(self) -> str:
        return f"analytics.{self.name}"

    @property
    def kept_table(self) -> str:
        """What dropped events add to windows of this table. Tables that are merged from parts have none."""
        return f"{self.table}_kept"

    @property
    def query(self) -> str:
        """The query of `sql/` that makes a window. Its `source` has the rows to store, and it ends with `{store_source}`."""
        return f"rollups/replace_{self.name if self.member is None else 'usage_member_daily'}"

    def replacement(self, query: str | None = None) -> compose.Composed:
        """Replaces a window by its own query, or by this one."""
        return composed(
            query or self.query, **self._names(), store_source=composed("rollups/store_source", **self._columns())
        )

    def keeping(self) -> compose.Composed:
        """Its own query, but `source` becomes what is kept of the window, and the window stays as it is."""
        return composed(
            self.query, **self._names(), store_source=composed("rollups/dropped/keep_source", **self._columns())
        )

    def keeping_stored(self) -> compose.Composed:
        """A query that keeps what is stored of a window."""
        return composed("rollups/dropped/keep_stored", **self._columns())

    def _columns(self) -> dict[str, compose.Composable]:
        return {
            **self._names(),
            "key": column_list(self.key),
            "source_key": column_list(self.key, of="source"),
            "stored_key": column_list(self.key, of="t"),
            "key_of_index": self._key_of_index(),
            "values": column_list(self.values),
            "source_values": column_list(self.values, of="source"),
            "stored_values": column_list(self.values, of="t"),
            "excluded_values": column_list(self.values, of="excluded"),
        }

    def _key_of_index(self) -> compose.Composed:
        digest = [compose.SQL("analytics.group_key({})").format(column_list(self.digested))] if self.digested else []
        others = (name for name in self.key if name not in self.digested)
        return compose.SQL(", ").join([*digest, *map(compose.Identifier, others)])

    def _names(self) -> dict[str, compose.Composable]:
        names: dict[str, compose.Composable] = {
            "table": relation(self.table),
            "kept": relation(self.kept_table),
            "window": compose.Identifier(self.column),
        }
        if self.member is not None:
            names |= {"member": compose.Identifier(self.member.column), "of_event": compose.SQL(self.member.of_event)}
        return names

    def compose(self, query: str) -> compose.Composed:
        """A query of `sql/` that serves the tables of all grains, for this table."""
        return composed(query, **self._names())


WINDOW_TABLES: Mapping[Grain, WindowTable] = {
    "hour": WindowTable("usage_hourly", "hour_start"),
    "day": WindowTable("usage_daily", "usage_date"),
    "week": WindowTable("usage_weekly", "week_start"),
    "month": WindowTable("usage_monthly", "month_start"),
}
# A day also stores these parts, which a roll-up replaces together with it. Weeks and months are merged from the first two.
_EVENT_DAY_PARTS = (
    WindowTable(
        "usage_user_daily",
        "usage_date",
        key=(*GROUP, "user_id"),
        values=(*_COUNTS, *_COST),
        member=Member("user_id", "event.user_id"),
    ),
    WindowTable("usage_latency_daily", "usage_date", values=("latencies_ms", "requests")),
    WindowTable(
        "usage_tag_daily",
        "usage_date",
        key=("tag", "value", "is_rest", "team", "provider", "model"),
        values=(*_COUNTS, *_COST),
        digested=("value", "team", "provider", "model"),
    ),
    WindowTable(
        "usage_api_key_daily",
        "usage_date",
        key=(*GROUP, "api_key_id"),
        values=(*_COUNTS, *_COST),
        member=Member("api_key_id", "coalesce(event.api_key_id, '')"),
    ),
    WindowTable("usage_error_daily", "usage_date", key=(*GROUP, "error_type", "status_code"), values=("errors",)),
)
# These are made from the users and latencies above, and from nothing else: the same by fewer dimensions.
_SUMMED_DAY_PARTS = (
    WindowTable(
        "usage_user_team_daily",
        "usage_date",
        key=("team", "user_id"),
        values=("requests", "errors", *TOKENS, *_COST),
        digested=(),
    ),
    WindowTable(
        "usage_latency_dimension_daily",
        "usage_date",
        key=("dimension", "value"),
        values=("latencies_ms", "requests"),
        digested=(),
    ),
)
DAY_PARTS = (*_EVENT_DAY_PARTS, *_SUMMED_DAY_PARTS)
# Of each tag so many values stay apart in a day.
MOST_TAG_VALUES = 1_000
# The tables that are made from events, each with what is kept of those that were dropped.
EVENT_PARTS: Mapping[Grain, tuple[WindowTable, ...]] = {"hour": (WINDOW_TABLES["hour"],), "day": _EVENT_DAY_PARTS}
