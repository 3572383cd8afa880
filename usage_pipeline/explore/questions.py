"""A question about usage, and the days it is compared with."""

import calendar
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Literal, get_args

from usage_pipeline.explore.sources import Grain, Plan, plan
from usage_pipeline.explore.terms import Dimension, Metric

Compare = Literal["previous", "month_before"]
COMPARISONS: tuple[Compare, ...] = get_args(Compare)


@dataclass(frozen=True, slots=True)
class Days:
    """Days with both ends included."""

    first: date
    last: date

    @property
    def until(self) -> date:
        return self.last + timedelta(days=1)

    @property
    def count(self) -> int:
        return (self.until - self.first).days


@dataclass(frozen=True, slots=True)
class Order:
    """By a metric, a dimension or `period`; what has no value comes last."""

    name: str
    is_descending: bool


@dataclass(frozen=True, slots=True)
class Question:
    """Usage of `days` in windows of `grain`, apart by `group_by`, kept to rows with one of the values of each filter.

    `within` are values of members that a bound token may see (`team`, `service`, `user_id`).
    """

    days: Days
    grain: Grain
    group_by: tuple[Dimension, ...]
    metrics: tuple[Metric, ...]
    filters: tuple[tuple[Dimension, tuple[str, ...]], ...] = ()
    within: tuple[tuple[Dimension, tuple[str, ...]], ...] = ()
    order: Order | None = None
    compare: Compare | None = None

    @property
    def plan(self) -> Plan:
        """Raises CannotBeAnswered."""
        kept_to = [dimension for dimension, _ in (*self.filters, *self.within)]
        return plan(self.grain, self.group_by, kept_to, self.metrics, are_days_apart=self.are_days_apart)

    @property
    def are_days_apart(self) -> bool:
        """Whether each day is a period. The last days of a longer month before are beside one day."""
        return self.grain == "day" and self.compare != "month_before"

    @property
    def compared_days(self) -> Days | None:
        """The days it is compared with."""
        return None if self.compare is None else compared(self.days, self.compare)

    @property
    def order_names(self) -> Mapping[str, str]:
        """What it can be sorted by, each with its column in the answer."""
        metrics = {metric.name: metric.name for metric in self.metrics}
        groups = {dimension.name: f"group_{number}" for number, dimension in enumerate(self.group_by)}
        return {**metrics, **groups, **({} if self.grain == "total" else {"period": "period"})}


def compared(days: Days, compare: Compare) -> Days:
    """As many days just before, or the same days of the month before: of whole months, whole months."""
    if compare == "previous":
        return Days(days.first - timedelta(days=days.count), days.first - timedelta(days=1))
    last = month_before(days.last)
    if days.first.day == 1 and days.until.day == 1:
        last = last.replace(day=_days_of_month(last))
    return Days(month_before(days.first), last)


def month_before(day: date) -> date:
    """The same day of the month before, or its last one."""
    before = day.replace(day=1) - timedelta(days=1)
    return before.replace(day=min(day.day, before.day))


def _days_of_month(day: date) -> int:
    return calendar.monthrange(day.year, day.month)[1]
