"""What each team cost in a month and in the month before, from the roll-ups of exploring, and how such numbers are written."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import psycopg

from usage_pipeline.explore.questions import Days, Order, Question, compared
from usage_pipeline.explore.reading import COLUMNS_BEFORE_GROUPS, read
from usage_pipeline.explore.terms import METRIC_BY_NAME, Dimension, dimensions_of
from usage_pipeline.rollups.calendar import month_of

MOST_TEAMS = 1_000
_METRICS = tuple(METRIC_BY_NAME[name] for name in ("requests", "cost_usd", "unpriced_requests"))
Within = tuple[tuple[Dimension, tuple[str, ...]], ...]


@dataclass(frozen=True, slots=True)
class Spent:
    """Of one team, or of all. None: no cost is known."""

    requests: int
    cost_usd: Decimal | None
    unpriced_requests: int


_NOTHING = Spent(0, None, 0)


@dataclass(frozen=True, slots=True)
class Line:
    """A team in the month and in the month before."""

    team: str
    now: Spent
    before: Spent


@dataclass(frozen=True, slots=True)
class Month:
    """The teams with the highest cost first; `team_count` may be more. The totals are those of the lines."""

    days: Days
    days_before: Days
    lines: Sequence[Line]
    team_count: int
    as_of: datetime

    @property
    def now(self) -> Spent:
        return _sum([line.now for line in self.lines])

    @property
    def before(self) -> Spent:
        return _sum([line.before for line in self.lines])


def question_of(first: date, within: Within) -> Question:
    """The question whose answer is the month that begins on a day. `within` is what a bound token may see."""
    return Question(
        Days(first, month_of(first + timedelta(days=31)) - timedelta(days=1)),
        "total",
        dimensions_of("team"),
        _METRICS,
        within=within,
        order=Order("cost_usd", True),
        compare="month_before",
    )


def costs_of(connection: psycopg.Connection, question: Question, zone: ZoneInfo, seconds: int) -> Month:
    """The answer. Raises psycopg.Error, and TookTooLong after so many seconds."""
    answer = read(connection, question, zone, MOST_TEAMS, seconds=seconds)
    lines = []
    for row in answer.rows:
        team, *values = row[COLUMNS_BEFORE_GROUPS:]
        is_compared, *before = values[len(_METRICS) :]
        now = Spent(*values[: len(_METRICS)])
        # A team that only the month before has is there with zeros.
        lines.append(Line(team, now if now.requests else _NOTHING, Spent(*before) if is_compared else _NOTHING))
    return Month(question.days, compared(question.days, "month_before"), lines, answer.all_rows, answer.as_of)


def _sum(parts: Sequence[Spent]) -> Spent:
    known = [one.cost_usd for one in parts if one.cost_usd is not None]
    return Spent(
        sum(one.requests for one in parts),
        sum(known, Decimal(0)) if known else None,
        sum(one.unpriced_requests for one in parts),
    )


def decimals_of(amounts: Sequence[Decimal | None]) -> int:
    """So many that the largest of them says something: cents, or fractions of them."""
    most = max((abs(amount) for amount in amounts if amount is not None), default=Decimal(0))
    if most == 0 or most >= 1:
        return 2
    return 4 if most >= Decimal("0.01") else 6


def money(amount: Decimal | None, decimals: int) -> str:
    """In US dollars; a dash where none is known."""
    return "–" if amount is None else f"{'−' if amount < 0 else ''}${abs(amount):,.{decimals}f}"
