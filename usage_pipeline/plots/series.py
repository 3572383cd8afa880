"""The pictures of a partition and their numbers, from the time before it. A picture that takes too long is left out."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

import psycopg
from psycopg import sql as compose

from usage_pipeline.plots.drawing import draw_bars, draw_lines, draw_ranking
from usage_pipeline.storage.sql import composed, load, relation

log = logging.getLogger(__name__)

_QUERY_TIMEOUT = "set local statement_timeout = '5s'"
_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Trend:
    """Sums of a count over the last windows. `column` has the window of a row; `step` is the length of a window."""

    title: str
    table: str
    column: str
    value: str
    step: timedelta = _DAY
    windows: int = 30


_TRENDS = (
    Trend("Requests of API keys per day", "usage.api_key_daily", "usage_date", "total_requests"),
    Trend("Uploads to storage providers per day", "usage.provider_daily", "usage_date", "upload_count"),
    Trend("Uses of API tokens per day", "usage.token_daily", "usage_date", "usage_count"),
    Trend("Counts of merchants per day, all metrics", "usage.merchant_usage", "date", "metric_value"),
    Trend("LLM requests per hour (UTC)", "analytics.usage_hourly", "hour_start", "requests", timedelta(hours=1), 48),
    Trend("LLM requests per day", "analytics.usage_daily", "usage_date", "requests"),
    Trend("LLM requests per week", "analytics.usage_weekly", "week_start", "requests", timedelta(days=7), 26),
    Trend("LLM requests per month", "analytics.usage_monthly", "month_start", "requests", timedelta(days=28), 12),
)
TRENDS: Mapping[str, Trend] = {trend.table: trend for trend in _TRENDS}


def partition_pictures(connection: psycopg.Connection, table: str, window: date | datetime) -> dict[str, bytes]:
    """PNG pictures by title, of the time before a window (a day, or the start of an hour) of `table`.

    Empty when there is nothing to show. A picture whose query takes longer than five seconds is left out.
    """
    try:
        with connection.transaction():
            connection.execute(_QUERY_TIMEOUT)
            return _pictures(connection, table, window)
    except psycopg.errors.QueryCanceled:
        log.warning("%s: no picture of %s, its query took longer than five seconds", table, window)
        return {}


def ranking_picture(title: str, entries: Sequence[Mapping[str, object]]) -> dict[str, bytes]:
    """The picture of a ranking. `entries` come best first, each with `title` and `score`."""
    if not entries:
        return {}
    return {title: draw_ranking(title, [(str(one["title"]), float(str(one["score"]))) for one in entries])}


def backlog_picture(title: str, readings: Sequence[tuple[datetime, float]]) -> dict[str, bytes]:
    """The picture of what waited in Redis at each time, oldest first."""
    if not readings:
        return {}
    return {title: draw_lines(title, [at for at, _ in readings], {"waiting": [value for _, value in readings]})}


def _pictures(connection: psycopg.Connection, table: str, window: date | datetime) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    if table in TRENDS:
        found |= _trend(connection, TRENDS[table], window)
    span = {"after": window - 30 * _DAY, "last": window}
    if table == "analytics.usage_daily":
        rows = connection.execute(load("plots/select_latency_percentiles"), span).fetchall()
        found |= _lines("Latency of all LLM requests per day, ms", ("p50", "p95", "p99"), rows)
    if table == "stats.daily_issue_stats":
        rows = connection.execute(load("plots/select_issue_flow"), span).fetchall()
        found |= _lines("Issues per day", ("created", "resolved"), rows)
    return found


def _trend(connection: psycopg.Connection, trend: Trend, window: date | datetime) -> dict[str, bytes]:
    query = composed(
        "plots/select_window_sums",
        table=relation(trend.table),
        window=compose.Identifier(trend.column),
        value=compose.Identifier(trend.value),
    )
    # Months are up to three days longer than their step; one too many shows nothing wrong.
    span = {"after": window - trend.windows * trend.step * (1.09 if trend.step > 7 * _DAY else 1), "last": window}
    rows = connection.execute(query, span).fetchall()
    if not rows:
        return {}
    times = [_moment(at) for at, _ in rows]
    return {trend.title: draw_bars(trend.title, times, [value for _, value in rows], width=trend.step)}


def _lines(title: str, names: Sequence[str], rows: Sequence[tuple[date, ...]]) -> dict[str, bytes]:
    if not rows:
        return {}
    columns = list(zip(*rows, strict=True))
    values = {name: list(column) for name, column in zip(names, columns[1:], strict=True)}
    return {title: draw_lines(title, [_moment(at) for at in columns[0]], values)}


def _moment(at: date | datetime) -> datetime:
    return at if isinstance(at, datetime) else datetime.combine(at, time(), UTC)
