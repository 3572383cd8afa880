"""The numbers of a report, all of one moment: the same questions that the page and the API ask."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import psycopg

from usage_pipeline.explore.changes import Change, changes
from usage_pipeline.explore.columns import columns_of
from usage_pipeline.explore.questions import Question
from usage_pipeline.explore.reading import COLUMNS_BEFORE_GROUPS, read_within, snapshot
from usage_pipeline.explore.sources import Grain as AskedGrain
from usage_pipeline.explore.terms import METRIC_BY_NAME, dimensions_of
from usage_pipeline.exports.columns import Column
from usage_pipeline.reports.report import Report
from usage_pipeline.rollups.calendar import Grain, window_on
from usage_pipeline.rollups.window_tables import GROUP

# More groups of team, service, provider and model than anybody has.
_MOST_ROWS = 1_000_000
_LISTED = tuple(name for name in METRIC_BY_NAME if METRIC_BY_NAME[name].needs)
_TOTALS = ("requests", "errors", "total_tokens", "cost_usd", "unpriced_requests", "distinct_users", "latency_p95_ms")
_ANY_START = {"week": date(2026, 1, 5), "month": date(2026, 1, 1)}
Numbers = Mapping[str, Any]
"""Values by the names of their metrics; a value is None where it is not known."""


class NotRolledUp(Exception):
    """Some usage of the period is not rolled up yet. The message is one line."""


@dataclass(frozen=True, slots=True)
class Share:
    """What one team or model cost, in US dollars: None when it made requests, and no cost of any is known."""

    name: str
    cost_usd: Decimal | None
    previous_cost_usd: Decimal | None


@dataclass(frozen=True, slots=True)
class Contents:
    """`rows` with `columns` are the table: team, service, provider and model, and the same of the period before.

    `costs_by_day` has the cost of each team on each of `days`. `change` is None when nothing was used in both periods.
    """

    report: Report
    time_zone: str
    as_of: datetime
    columns: Sequence[Column]
    rows: Sequence[Sequence[Any]]
    totals: Numbers
    totals_before: Numbers
    days: Sequence[date]
    costs_by_day: Mapping[str, Sequence[Decimal]]
    teams: Sequence[Share]
    models: Sequence[Share]
    change: Change | None


def table_columns(grain: Grain) -> Sequence[tuple[Column, tuple[str, ...]]]:
    """The columns of the table of a week or month, each with the columns of roll-ups that it is made of."""
    listed = _table_question(_any_report(grain))
    metrics = [METRIC_BY_NAME[name].needs for name in _LISTED]
    sources = [*((name,) for name in GROUP), *metrics, *metrics]
    return [
        (column, tuple(f"analytics.usage_daily.{name}" for name in of_column))
        for column, of_column in zip(columns_of(listed), sources, strict=True)
    ]


def tables_read(grain: Grain) -> Sequence[str]:
    """The roll-ups (schema.name) that the questions of a report are answered from."""
    report = _any_report(grain)
    plans = [question.plan for question in (_table_question(report), _totals_question(report), _daily_question(report))]
    sources = [source for plan in plans for source in (plan.sums, plan.users, plan.latencies) if source is not None]
    return sorted({source.table for source in sources})


def read_contents(connection: psycopg.Connection, report: Report, zone: ZoneInfo) -> Contents:
    """The numbers of a report. Raises NotRolledUp, psycopg.Error."""
    listed, totals = _table_question(report), _totals_question(report)
    with snapshot(connection):
        answer = read_within(connection, listed, zone, _MOST_ROWS)
        if answer.as_of < report.window.end:
            raise NotRolledUp(
                f"expected all usage from {report.days.first} to {report.days.last} to be rolled up, came some that waits "
                f"since {answer.as_of:%Y-%m-%d %H:%M}Z; sensors roll it up within minutes while the daemon runs"
            )
        total = next(iter(read_within(connection, totals, zone, 1).rows), None)
        daily = read_within(connection, _daily_question(report), zone, _MOST_ROWS).rows
        change = next(iter(changes(connection, totals, zone, None)), None)
    rows = [_as_in_a_file(listed, row) for row in answer.rows]
    sides = [
        (first + _LISTED.index("requests"), first + _LISTED.index("cost_usd"))
        for first in (len(GROUP), len(GROUP) + len(_LISTED))
    ]
    return Contents(
        report=report,
        time_zone=zone.key,
        as_of=answer.as_of,
        columns=columns_of(listed),
        rows=rows,
        totals=_numbers(total, COLUMNS_BEFORE_GROUPS),
        totals_before=_numbers(total, COLUMNS_BEFORE_GROUPS + len(_TOTALS) + 1),
        days=[report.days.first + timedelta(days=number) for number in range(report.days.count)],
        costs_by_day=_by_day(report, daily),
        teams=_shares(rows, lambda row: str(row[0]), sides),
        models=_shares(rows, lambda row: str(row[3]), sides),
        change=change,
    )


def _table_question(report: Report) -> Question:
    return _question(report, "total", GROUP, _LISTED)


def _totals_question(report: Report) -> Question:
    return _question(report, "total", (), _TOTALS)


def _daily_question(report: Report) -> Question:
    return _question(report, "day", ("team",), ("cost_usd",), is_compared=False)


def _any_report(grain: Grain) -> Report:
    return Report(window_on(grain, _ANY_START[grain], ZoneInfo("UTC")))


def _question(
    report: Report, grain: AskedGrain, groups: Sequence[str], metrics: Sequence[str], *, is_compared: bool = True
) -> Question:
    return Question(
        report.days,
        grain,
        dimensions_of(*groups),
        tuple(METRIC_BY_NAME[name] for name in metrics),
        compare=report.compare if is_compared else None,
    )


def _as_in_a_file(question: Question, row: Sequence[Any]) -> list[Any]:
    """Without what only pages have: the number of rows, the period of a total, and whether the days compared with have it."""
    measured = COLUMNS_BEFORE_GROUPS + len(question.group_by) + len(question.metrics)
    return [*row[COLUMNS_BEFORE_GROUPS:measured], *row[measured + 1 :]]


def _numbers(row: Sequence[Any] | None, first: int) -> Numbers:
    return dict.fromkeys(_TOTALS) if row is None else dict(zip(_TOTALS, row[first : first + len(_TOTALS)], strict=True))


def _by_day(report: Report, rows: Iterable[Sequence[Any]]) -> Mapping[str, Sequence[Decimal]]:
    costs: dict[str, list[Decimal]] = {}
    for _, day, team, cost in rows:
        of_team = costs.setdefault(team, [Decimal(0)] * report.days.count)
        of_team[(day - report.days.first).days] = cost or Decimal(0)
    return costs


def _shares(
    rows: Iterable[Sequence[Any]], name: Callable[[Sequence[Any]], str], sides: Sequence[tuple[int, int]]
) -> Sequence[Share]:
    """Sums of the costs of both sides by name, the dearest first. `sides` are the places of requests and of their cost."""
    sums: dict[str, list[Decimal | None]] = {}
    used: set[tuple[str, int]] = set()
    for row in rows:
        both = sums.setdefault(name(row), [None, None])
        for side, (requests, cost) in enumerate(sides):
            # A row that only the other side has costs nothing here, which says nothing of the rows that are there.
            if row[requests]:
                used.add((name(row), side))
                both[side] = added(both[side], row[cost])
    shares = [
        Share(each, *(cost if (each, side) in used else Decimal(0) for side, cost in enumerate(both)))
        for each, both in sums.items()
    ]
    return sorted(shares, key=lambda one: (-(one.cost_usd or 0), -(one.previous_cost_usd or 0), one.name))


def added(one: Decimal | None, other: Decimal | None) -> Decimal | None:
    """The sum of what is known; None when neither is."""
    return other if one is None else one if other is None else one + other
