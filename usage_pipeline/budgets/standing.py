"""How a budget stands: what is used of it in the current period, and what will be at the present rate.

What is used is the answer of `explore/` for the days of the period, so that it equals that of `GET /api/usage/explore`.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import psycopg

from usage_pipeline.budgets.budget import Budget
from usage_pipeline.explore.questions import Days, Question
from usage_pipeline.explore.reading import COLUMNS_BEFORE_GROUPS, data_time_of, read_within, snapshot
from usage_pipeline.explore.terms import METRIC_BY_NAME, dimension_of
from usage_pipeline.rollups.calendar import Window
from usage_pipeline.texts import counted

_METRIC_OF_UNIT = {"usd": "cost_usd", "tokens": "total_tokens", "requests": "requests"}
_METRICS = (*_METRIC_OF_UNIT.values(), "unpriced_requests")
# Before that a single request would decide about a month.
_LEAST_ELAPSED = timedelta(hours=1)
_MICROSECOND = timedelta(microseconds=1)
# A forecast of money is no more exact than its rate.
_FORECAST_DECIMALS = {"usd": 6, "tokens": 0, "requests": 0}


@dataclass(frozen=True, slots=True)
class Standing:
    """What is used of a budget in the period `window`, as of the data time of the roll-ups.

    `unpriced_requests` have no price: of a budget in US dollars they are not in `used`. `newest_as_of` is the data time of the
    newest day alone (None: that of all): a late event may keep an earlier day waiting for its archived ones.
    """

    budget: Budget
    window: Window
    used: Decimal
    unpriced_requests: int
    as_of: datetime
    newest_as_of: datetime | None = None

    @property
    def last_day(self) -> date:
        return self.window.next_day - timedelta(days=1)

    @property
    def left(self) -> Decimal:
        return max(self.budget.limit - self.used, Decimal(0))

    @property
    def is_used_up(self) -> bool:
        return self.used >= self.budget.limit

    @property
    def share(self) -> float:
        """Used of the limit: 1 is all of it."""
        return float(self.used / self.budget.limit)

    @property
    def reached_shares(self) -> list[int]:
        """The alert shares that are reached, in percent."""
        return [share for share in self.budget.alert_shares if 100 * self.used >= share * self.budget.limit]

    @property
    def unpriced_note(self) -> str:
        """What to say of requests without a price; empty where there are none."""
        number = self.unpriced_requests
        return (
            f"{counted(number, 'request')} without a price {'is' if number == 1 else 'are'} not in it" if number else ""
        )

    @property
    def forecast(self) -> Decimal | None:
        """What will be used by the end of the period at the rate so far. None before an hour of it has passed."""
        elapsed = min(self.newest_as_of or self.as_of, self.window.end) - self.window.first
        if elapsed < _LEAST_ELAPSED:
            return None
        whole = self.window.end - self.window.first
        forecast = self.used * (whole // _MICROSECOND) / (elapsed // _MICROSECOND)
        return round(forecast, _FORECAST_DECIMALS[self.budget.unit])


def standings(
    connection: psycopg.Connection, budgets: Iterable[Budget], zone: ZoneInfo, now: datetime
) -> list[Standing]:
    """Each budget at `now`, in their order. One question for all that have the period and the kind of their scope in common.

    On an autocommit connection.
    """
    asked = list(budgets)
    groups: defaultdict[tuple[Window, str | None], list[Budget]] = defaultdict(list)
    for budget in asked:
        groups[budget.window(now, zone), budget.scope.kind].append(budget)
    found = {
        standing.budget.name: standing
        for (window, kind), some in groups.items()
        for standing in _answered(connection, window, kind, some, zone, now)
    }
    return [found[budget.name] for budget in asked]


def _answered(
    connection: psycopg.Connection,
    window: Window,
    kind: str | None,
    budgets: list[Budget],
    zone: ZoneInfo,
    now: datetime,
) -> Iterator[Standing]:
    dimension = None if kind is None else dimension_of(kind)
    values = tuple(dict.fromkeys(budget.scope.value for budget in budgets if budget.scope.value is not None))
    question = Question(
        Days(window.day, window.next_day - timedelta(days=1)),
        "total",
        group_by=() if dimension is None else (dimension,),
        metrics=tuple(METRIC_BY_NAME[name] for name in _METRICS),
        filters=() if dimension is None else ((dimension, values),),
    )
    with snapshot(connection):
        answer = read_within(connection, question, zone, most=max(1, len(values)))
        newest_as_of = data_time_of(connection, now.astimezone(zone).date(), zone)
    place = COLUMNS_BEFORE_GROUPS + len(question.group_by)
    # Without a group all of it is under None, as in the scope of everybody.
    rows = {
        row[COLUMNS_BEFORE_GROUPS] if dimension else None: dict(zip(_METRICS, row[place:], strict=True))
        for row in answer.rows
    }
    for budget in budgets:
        row = rows.get(budget.scope.value, {})
        used = Decimal(row.get(_METRIC_OF_UNIT[budget.unit]) or 0)
        unpriced = row.get("unpriced_requests") or 0 if budget.unit == "usd" else 0
        yield Standing(budget, window, used, unpriced, answer.as_of, newest_as_of)
