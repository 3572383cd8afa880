"""Reads what the rules of this folder need: how budgets stand, and the last closed days of each team with those before them."""

import logging
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from datetime import date, datetime, timedelta
from typing import Any

import psycopg

from usage_pipeline.alerting.spending.days import HISTORY_DAYS, LEAST_DAYS, LEAST_REQUESTS, Measure, TeamDay
from usage_pipeline.budgets.standing import Standing, standings
from usage_pipeline.budgets.store import budgets
from usage_pipeline.explore.limits import TooMuchToRead, expect_readable
from usage_pipeline.explore.questions import Days, Question
from usage_pipeline.explore.reading import COLUMNS_BEFORE_GROUPS, data_time_of, read
from usage_pipeline.explore.terms import METRIC_BY_NAME, dimensions_of
from usage_pipeline.rollups.calendar import day_window
from usage_pipeline.settings import Settings
from usage_pipeline.storage.sql import load

# A day is rolled up ten minutes after its end.
_GRACE = timedelta(minutes=30)
_DAY = timedelta(days=1)
# After a pause, and while a roll-up is stuck, so many days are judged later.
MOST_DAYS_AT_ONCE = 7
# How far back the first day of a team is looked for.
_KNOWN_DAYS = 400
# Of what the days of all teams cost; the busiest in a hundred are incidents.
_BUSY_PERCENTILE = 0.98
_MOST_ROWS = 1_000_000
_log = logging.getLogger(__name__)
Row = Mapping[str, Any]
Rows = Mapping[str, Mapping[date, Row]]


def read_standings(postgres: psycopg.Connection, settings: Settings, now: datetime) -> tuple[Standing, ...]:
    """How all budgets stand."""
    return tuple(standings(postgres, budgets(postgres), settings.timezone, now))


def due_days(judged_day: str, waiting: Collection[str], now: datetime, settings: Settings) -> list[date]:
    """Closed days after `judged_day` and those that waited for their roll-up (ISO), oldest first, at most MOST_DAYS_AT_ONCE.

    Without `judged_day`, the last closed day.
    """
    newest = (now - _GRACE).astimezone(settings.timezone).date() - _DAY
    oldest = newest - (MOST_DAYS_AT_ONCE - 1) * _DAY
    first = max(date.fromisoformat(judged_day) + _DAY, oldest) if judged_day else newest
    days = {first + number * _DAY for number in range((newest - first).days + 1)}
    return sorted(days | {day for day in map(date.fromisoformat, waiting) if oldest <= day <= newest})


def is_rolled_up(postgres: psycopg.Connection, settings: Settings, day: date) -> bool:
    """Whether all that came of the day before its end is in its roll-up."""
    return data_time_of(postgres, day, settings.timezone) >= day_window(day, settings.timezone).end


def read_days(
    postgres: psycopg.Connection, settings: Settings, due: Collection[date], newest: date
) -> tuple[TeamDay, ...]:
    """The measures of each team that had usage on one of these days, and on the others of the week up to `newest`.

    That is the newest day which is judged; what was told of the others is over if it was as usual.
    """
    first = min(newest - (MOST_DAYS_AT_ONCE - 1) * _DAY, min(due))
    days = [first + number * _DAY for number in range((newest - first).days + 1)]
    found = (
        *_read_costs_and_shares(postgres, settings, days),
        *_read_latencies(postgres, settings, days),
    )
    return tuple(replace(one, is_news=one.day in due) for one in found)


def _read_costs_and_shares(postgres: psycopg.Connection, settings: Settings, days: list[date]) -> Iterator[TeamDay]:
    metrics = ("requests", "unpriced_requests", "cost_usd", "error_rate")
    too_much = None
    # Of very many groups a day, the newest is judged by fewer.
    for some, reach in ((days, HISTORY_DAYS["cost"]), (days[-1:], HISTORY_DAYS["latency"])):
        since = some[0] - reach * _DAY
        try:
            rows = _rows(postgres, settings, since, some[-1], *metrics)
        except TooMuchToRead as error:
            too_much = error
            continue
        firsts = _first_days(postgres, rows, since)
        for day in some:
            busy = _busy_day(rows, firsts, day)
            for team, by_day in rows.items():
                if day in by_day:
                    yield from _cost(team, by_day, firsts[team], day, busy)
                    yield from _of_many_requests(team, by_day, day, "error-rate", "error_rate")
                else:
                    # It is as usual: what was told of the day before is over.
                    yield TeamDay(team, day, "cost", 0.0, ())
        return
    raise ValueError(f"days of teams: {too_much}")


def _read_latencies(postgres: psycopg.Connection, settings: Settings, days: list[date]) -> Iterator[TeamDay]:
    # Where a week more is too much to read, the newest day is judged.
    for some in (days, days[-1:]):
        since = some[0] - HISTORY_DAYS["latency"] * _DAY
        try:
            rows = _rows(postgres, settings, since, some[-1], "requests", "latency_p95_ms")
        except TooMuchToRead as error:
            _log.warning("alerts: latencies from %s to %s are not judged: %s", some[0], some[-1], error)
            continue
        for day in some:
            for team, by_day in rows.items():
                yield from _of_many_requests(team, by_day, day, "latency", "latency_p95_ms")
        return


def _rows(postgres: psycopg.Connection, settings: Settings, first: date, last: date, *metrics: str) -> Rows:
    """Metrics by team and day. Raises TooMuchToRead."""
    asked = tuple(METRIC_BY_NAME[name] for name in metrics)
    question = Question(Days(first, last), "day", dimensions_of("team"), asked)
    expect_readable(postgres, question)
    found: defaultdict[str, dict[date, Row]] = defaultdict(dict)
    for row in read(postgres, question, settings.timezone, _MOST_ROWS).rows:
        _, period, name, *values = row[: COLUMNS_BEFORE_GROUPS + 1 + len(metrics)]
        found[name][period] = dict(zip(metrics, values, strict=True))
    return found


def _first_days(postgres: psycopg.Connection, rows: Rows, first: date) -> Mapping[str, date]:
    """The first day of each team within _KNOWN_DAYS, but not before `first`."""
    asked = {"since": first - _KNOWN_DAYS * _DAY, "until": first, "teams": [*rows]}
    earlier = {team for (team,) in postgres.execute(load("alerting/select_earlier_teams"), asked)}
    return {team: first if team in earlier else min(by_day) for team, by_day in rows.items()}


def _cost(team: str, by_day: Mapping[date, Row], first: date, day: date, busy: float) -> Iterator[TeamDay]:
    cost = by_day[day]["cost_usd"]
    if cost is not None:
        unpriced = _unpriced_share(by_day[day])
        history = tuple(_known_cost(by_day.get(one), unpriced) for one in _days_before(day, first, "cost"))
        yield TeamDay(team, day, "cost", float(cost), history, busy)


def _known_cost(row: Row | None, unpriced: float) -> float | None:
    """What a day cost: 0 without usage. Not known if a larger share of its requests had no price than `unpriced`."""
    if row is None:
        return 0.0
    return float(row["cost_usd"] or 0) if _unpriced_share(row) <= unpriced else None


def _unpriced_share(row: Row) -> float:
    return row["unpriced_requests"] / row["requests"] if row["requests"] else 0.0


def _busy_day(rows: Rows, firsts: Mapping[str, date], day: date) -> float:
    """What a busy day of a team with a history cost, before `day`."""
    costs = sorted(
        float(row["cost_usd"])
        for team, by_day in rows.items()
        if firsts[team] <= day - LEAST_DAYS * _DAY
        for one, row in by_day.items()
        if one < day and row["cost_usd"]
    )
    return costs[int(_BUSY_PERCENTILE * len(costs))] if costs else 0.0


def _of_many_requests(
    team: str, by_day: Mapping[date, Row], day: date, measure: Measure, metric: str
) -> Iterator[TeamDay]:
    """The measure of the day and those before, each of LEAST_REQUESTS at least."""

    def value(row: Row | None) -> float | None:
        is_known = row is not None and row["requests"] >= LEAST_REQUESTS and row[metric] is not None
        return float(row[metric]) if row is not None and is_known else None

    now = value(by_day.get(day))
    if now is not None:
        history = tuple(value(by_day.get(one)) for one in _days_before(day, min(by_day), measure))
        yield TeamDay(team, day, measure, now, history)


def _days_before(day: date, first: date, measure: Measure) -> list[date]:
    """At most HISTORY_DAYS, none before `first`."""
    number = min((day - first).days, HISTORY_DAYS[measure])
    return [day - ago * _DAY for ago in range(number, 0, -1)]
