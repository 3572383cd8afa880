"""The rule `abnormal-day`: a closed day of a team is far above its own last four weeks, in cost, errors or latency. Pure."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from statistics import fmean, median, pstdev
from typing import Literal

from usage_pipeline.alerting.alert import Alert
from usage_pipeline.settings import Settings
from usage_pipeline.texts import counted

Measure = Literal["cost", "error-rate", "latency"]
HISTORY_DAYS = 28
# A team that is new has no history to be outside of.
LEAST_DAYS = 14
# An error rate or percentile of fewer requests is chance.
LEAST_REQUESTS = 100
_DEVIATIONS = 4.0
_TIMES_MEDIAN = 2.0


@dataclass(frozen=True, slots=True)
class TeamDay:
    """A measure of a team on a closed day, and on its days before that, at most HISTORY_DAYS.

    The cost is in US dollars, and a day without usage is a zero. The error rate is 0 to 1 and the latency in milliseconds;
    days with fewer than LEAST_REQUESTS have neither.
    """

    team: str
    day: date
    measure: Measure
    value: float
    history: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class _Told:
    """How a measure is told. Below `floor` nothing is abnormal."""

    title: str
    floor: float
    shown: Callable[[float], str]
    remedy: str


_TOLD: dict[Measure, _Told] = {
    "cost": _Told(
        "cost",
        10.0,
        lambda value: f"{value:,.2f} USD",
        "`GET /api/usage/changes?by=service` says why it changed: more requests, other models, more tokens, prices. A budget "
        "tells you earlier (docs/budgets.md).",
    ),
    "error-rate": _Told(
        "error rate",
        0.05,
        lambda value: f"{100 * value:.1f} %",
        "`GET /api/usage/explore?metrics=errors&group_by=error_type` says which errors, and `group_by=model` where.",
    ),
    "latency": _Told(
        "latency (95th percentile)",
        1_000.0,
        lambda value: f"{value:,.0f} ms",
        "`GET /api/usage/explore?metrics=latency_p95_ms&group_by=model` says which model got slower.",
    ),
}


def is_abnormal(day: TeamDay) -> bool:
    """Whether it is above mean + 4 standard deviations, at least twice the median, and not below the floor."""
    if len(day.history) < LEAST_DAYS:
        return False
    return (
        day.value >= _TOLD[day.measure].floor
        and day.value >= _TIMES_MEDIAN * median(day.history)
        and day.value > fmean(day.history) + _DEVIATIONS * pstdev(day.history)
    )


def abnormal_days(found: Sequence[TeamDay], _: Settings) -> Iterator[Alert]:
    """Each abnormal measure of a team."""
    for one in filter(is_abnormal, found):
        told = _TOLD[one.measure]
        usual = told.shown(median(one.history))
        yield Alert(
            "abnormal-day",
            f"abnormal-day:{one.measure}:{one.team}",
            "warning",
            f"The {told.title} of team {one.team} was far above the usual on {one.day}",
            f"{one.day}: {told.shown(one.value)}. In the {counted(len(one.history), 'day')} before, the median was {usual} and "
            f"the most {told.shown(max(one.history))}.",
            f"{told.remedy} Ask for this day, with `filter.team`.",
        )
