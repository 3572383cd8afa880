"""Reads what the rules of this folder need: how budgets stand, and the last closed day of each team with those before it."""

import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping
from datetime import date, datetime, timedelta
from typing import Any

import psycopg

from usage_pipeline.alerting.spending.days import HISTORY_DAYS, LEAST_REQUESTS, TeamDay
from usage_pipeline.budgets.standing import Standing, standings
from usage_pipeline.budgets.store import budgets
from usage_pipeline.explore.limits import TooMuchToRead, expect_readable
from usage_pipeline.explore.questions import Days, Question
from usage_pipeline.explore.reading import COLUMNS_BEFORE_GROUPS, data_time_of, read
from usage_pipeline.explore.terms import METRIC_BY_NAME, dimension_of
from usage_pipeline.rollups.calendar import day_window
from usage_pipeline.settings import Settings

# A day is rolled up ten minutes after its end.
_GRACE = timedelta(minutes=30)
_DAY = timedelta(days=1)
_MOST_ROWS = 1_000_000
_log = logging.getLogger(__name__)
Rows = Mapping[str, Mapping[date, Mapping[str, Any]]]


def read_standings(postgres: psycopg.Connection, settings: Settings, now: datetime) -> tuple[Standing, ...]:
    """How all budgets stand."""
    return tuple(standings(postgres, budgets(postgres), settings.timezone, now))


def due_day(judged_day: str, now: datetime, settings: Settings) -> date | None:
    """The last closed day, if it comes after `judged_day` (ISO)."""
    newest = (now - _GRACE).astimezone(settings.timezone).date() - _DAY
    return newest if not judged_day or newest > date.fromisoformat(judged_day) else None


def is_rolled_up(postgres: psycopg.Connection, settings: Settings, day: date) -> bool:
    """Whether all that came of the day before its end is in its roll-up."""
    return data_time_of(postgres, day, settings.timezone) >= day_window(day, settings.timezone).end


def read_days(postgres: psycopg.Connection, settings: Settings, day: date) -> tuple[TeamDay, ...]:
    """The measures of each team that had usage on that day."""
    sums = _rows(postgres, settings, day, "requests", "cost_usd", "error_rate")
    try:
        latencies = _rows(postgres, settings, day, "requests", "latency_p95_ms")
    except TooMuchToRead as error:
        _log.warning("alerts: latencies of days are not judged: %s", error)
        latencies = {}
    return (*_costs(sums, day), *_shares(sums, day), *_latencies(latencies, day))


def _rows(postgres: psycopg.Connection, settings: Settings, day: date, *metrics: str) -> Rows:
    """Metrics by team and day. Raises TooMuchToRead."""
    team = dimension_of("team")
    assert team is not None  # noqa: S101  # it is a dimension
    asked = tuple(METRIC_BY_NAME[name] for name in metrics)
    question = Question(Days(day - HISTORY_DAYS * _DAY, day), "day", (team,), asked)
    expect_readable(postgres, question)
    found: defaultdict[str, dict[date, Mapping[str, Any]]] = defaultdict(dict)
    for row in read(postgres, question, settings.timezone, _MOST_ROWS).rows:
        _, period, name, *values = row[: COLUMNS_BEFORE_GROUPS + 1 + len(metrics)]
        found[name][period] = dict(zip(metrics, values, strict=True))
    return found


def _costs(rows: Rows, day: date) -> Iterator[TeamDay]:
    for team, by_day in rows.items():
        cost = by_day.get(day, {}).get("cost_usd")
        if cost is not None:
            first = min(by_day)
            days = [first + number * _DAY for number in range((day - first).days)]
            history = tuple(float(by_day.get(one, {}).get("cost_usd") or 0) for one in days)
            yield TeamDay(team, day, "cost", float(cost), history)


def _shares(rows: Rows, day: date) -> Iterator[TeamDay]:
    for team, history, value in _of_many_requests(rows, day, "error_rate"):
        yield TeamDay(team, day, "error-rate", value, history)


def _latencies(rows: Rows, day: date) -> Iterator[TeamDay]:
    for team, history, value in _of_many_requests(rows, day, "latency_p95_ms"):
        yield TeamDay(team, day, "latency", value, history)


def _of_many_requests(rows: Rows, day: date, metric: str) -> Iterator[tuple[str, tuple[float, ...], float]]:
    """Team, its days before, and that day, each with LEAST_REQUESTS at least."""
    for team, by_day in rows.items():
        values = {
            one: float(row[metric])
            for one, row in sorted(by_day.items())
            if row["requests"] >= LEAST_REQUESTS and row[metric] is not None
        }
        if day in values:
            yield team, tuple(value for one, value in values.items() if one < day), values[day]
