"""The rule `abnormal-day`: a closed day of a team is far above its own history, in cost, errors or latency. Pure.

By median and MAD, as `alerting/abnormal_usage.py`: outliers do not move them.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from statistics import median
from typing import Literal

from usage_pipeline.alerting.abnormal_usage import robust_deviation
from usage_pipeline.alerting.alert import Alert
from usage_pipeline.settings import Settings
from usage_pipeline.texts import counted

Measure = Literal["cost", "error-rate", "latency"]
# A quarter: a job of each month is in it three times. Latencies take more to read.
HISTORY_DAYS: dict[Measure, int] = {"cost": 91, "error-rate": 91, "latency": 28}
# A team that is new has no history to be outside of.
LEAST_DAYS = 14
# An error rate or percentile of fewer requests is chance.
LEAST_REQUESTS = 100
_SCORE = 6.0
_TIMES_BUSY = 2.0
# Of the days of a team that is silent on most of them, and of those of a new team.
_FLOOR_OF_SILENT = 100.0
_FLOOR_OF_NEW = 1_000.0
# Eight or more of the same weekday, which costs at most half of what all days do. Few days vary more than many.
_LEAST_WEEKDAYS = 8
_QUIET_WEEKDAY = 0.5
_TIMES_BUSY_WEEKDAY = 3.0
_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class TeamDay:
    """A measure of a team on a closed day, and on the days just before it, at most HISTORY_DAYS, since its first one ever.

    The cost is in US dollars, and a day without usage is a zero. The error rate is 0 to 1 and the latency in milliseconds. None
    is what is not known: a cost while a larger share of requests had no price than on `day`, and a rate of fewer than
    LEAST_REQUESTS. `elsewhere`: what busy days of other teams cost. `is_news`: it was not judged before.
    """

    team: str
    day: date
    measure: Measure
    value: float
    history: tuple[float | None, ...]
    elsewhere: float = 0.0
    is_news: bool = True


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
    """Whether it is far above its own days, or those of its weekday; a new team's: above its own and those of others."""
    return _usual(day) is not None


def abnormal_days(found: Sequence[TeamDay], _: Settings) -> Iterator[Alert]:
    """Each abnormal measure of a team on a day. One that was told before lasts while all days after it are abnormal, too."""
    usual = {(one.team, one.measure, one.day): said for one in found if (said := _usual(one)) is not None}
    newest = max((one.day for one in found), default=date.min)
    for one in found:
        said = usual.get((one.team, one.measure, one.day))
        days_after = [one.day + ago * _DAY for ago in range(1, (newest - one.day).days + 1)]
        if said is not None and (one.is_news or all((one.team, one.measure, day) in usual for day in days_after)):
            told = _TOLD[one.measure]
            yield Alert(
                "abnormal-day",
                f"abnormal-day:{one.measure}:{one.team}:{one.day}",
                "warning",
                f"The {told.title} of team {one.team} was far above the usual on {one.day}",
                f"{one.day}: {told.shown(one.value)}. {said}",
                f"{told.remedy} Ask for this day, with `filter.team`.",
                is_told=one.is_news,
            )


def _usual(day: TeamDay) -> str | None:
    """What the day is far above, as a sentence; None: it is as usual, or nobody knows."""
    told = _TOLD[day.measure]
    known = [value for value in day.history if value is not None]
    if day.value < told.floor:
        return None
    if len(day.history) < LEAST_DAYS:
        return _usual_of_new(day, known)
    if len(known) < LEAST_DAYS:
        return None
    is_silent = day.measure == "cost" and median(known) == 0
    if _is_far_above(day.value, known, _TIMES_BUSY * _busiest(day.history)):
        return None if is_silent and day.value < _FLOOR_OF_SILENT else _said(told, counted(len(known), "day"), known)
    weekdays = [value for value in day.history[-7::-7] if value is not None]
    if len(weekdays) < _LEAST_WEEKDAYS or not 0 < median(weekdays) <= _QUIET_WEEKDAY * median(known):
        return None
    # One of them may have been an incident.
    if _is_far_above(day.value, weekdays, _TIMES_BUSY_WEEKDAY * sorted(weekdays)[-2]):
        return _said(told, f"{len(weekdays)} {day.day:%A}s", weekdays)
    return None


def _usual_of_new(day: TeamDay, known: Sequence[float]) -> str | None:
    """Of a team with little history: a large sum, far above its own days and busy days of other teams."""
    if day.measure != "cost" or len(known) < len(day.history):
        return None
    if day.value < _FLOOR_OF_NEW or day.value <= _TIMES_BUSY * max((*known, day.elsewhere)):
        return None
    elsewhere = f"Busy days of other teams cost {_TOLD['cost'].shown(day.elsewhere)}."
    if not known:
        return f"It is the first day of this team. {elsewhere}"
    return f"{_said(_TOLD['cost'], counted(len(known), 'day'), known)} {elsewhere}"


def _is_far_above(value: float, history: Sequence[float], busy: float) -> bool:
    return value > busy and value - median(history) > _SCORE * robust_deviation(history)


def _busiest(history: Sequence[float | None]) -> float:
    """The most of a day, but for the busiest incident (a day and its neighbours): it hides no new one."""
    known = {at: value for at, value in enumerate(history) if value is not None}
    incident = max(known, key=lambda at: known[at])
    return max((value for at, value in known.items() if abs(at - incident) > 1), default=0.0)


def _said(told: _Told, days: str, history: Sequence[float]) -> str:
    shown = told.shown
    return f"In the {days} before, the median was {shown(median(history))} and the most {shown(max(history))}."
