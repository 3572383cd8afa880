"""The robust score: what it finds, what it leaves alone, and how often it is wrong on real traffic."""

import csv
from collections import Counter
from datetime import UTC, date, datetime, timedelta

import pytest

from usage_pipeline.alerting.abnormal_usage import HISTORY_HOURS, LEAST_HOURS, UsageHour, judge
from usage_pipeline_tests.rigs.places import REAL_DATA, REAL_ISSUES, REAL_TRACE

AT = datetime(2026, 11, 20, 13, tzinfo=UTC)
STEADY = (95, 100, 105, 110) * 84
# Ten in each hour of the night, 300 in each hour of the day.
DAYS_AND_NIGHTS = ((10,) * 12 + (300,) * 12) * 14
NIGHTLY_JOB = ((0,) * 23 + (5_000,)) * 14


def is_abnormal(uses: int, history: tuple[int, ...]) -> bool:
    return judge(UsageHour("token", "t", AT, uses, history), least_score=6.0, least_uses=100).is_abnormal


@pytest.mark.parametrize(
    ("uses", "history", "expected"),
    [
        (130, STEADY, False),
        (1_000, STEADY, True),
        (330, DAYS_AND_NIGHTS, False),
        (3_000, DAYS_AND_NIGHTS, True),
        (5_500, NIGHTLY_JOB, False),
        (20_000, NIGHTLY_JOB, True),
        (99, (0,) * HISTORY_HOURS, False),
        (100, (0,) * HISTORY_HOURS, True),
        (1_000, STEADY[: LEAST_HOURS - 1], False),
        (1_000, STEADY[:LEAST_HOURS], True),
        (0, STEADY, False),
    ],
)
def test_an_hour_is_abnormal_far_outside_its_own_history_only(
    uses: int, history: tuple[int, ...], expected: bool
) -> None:
    assert is_abnormal(uses, history) == expected


def test_past_incidents_do_not_hide_a_new_one() -> None:
    """A mean and a standard deviation would: with six hours at 50,000 the latter is 6,600."""
    assert is_abnormal(2_000, (*STEADY[6:], *(50_000,) * 6))


def alarms(series: list[int]) -> tuple[int, int]:
    """Hours that are judged, each by those before it, and how many of them are found abnormal."""
    judged = range(LEAST_HOURS, len(series))
    return len(judged), sum(is_abnormal(series[at], tuple(series[max(0, at - HISTORY_HOURS) : at])) for at in judged)


def requests_in_steps_of(seconds: int, times: int) -> list[int]:
    """The real hour of requests, spread: each step of it stands for an hour of so many times its requests."""
    with REAL_TRACE.open() as lines:
        at = [datetime.fromisoformat(row["TIMESTAMP"][:26]) for row in csv.DictReader(lines)]
    first = min(at)
    steps = Counter(int((one - first).total_seconds() // seconds) for one in at)
    return [steps[step] * times for step in range(max(steps) + 1)]


def issues_by_day(column: str, times: int) -> list[int]:
    with REAL_ISSUES.open() as lines:
        days = Counter(date.fromisoformat(row[column][:10]) for row in csv.DictReader(lines) if row[column])
    first = min(days)
    return [days[first + timedelta(days=day)] * times for day in range((max(days) - first).days + 1)]


needs_data = pytest.mark.skipif(not REAL_DATA.is_dir(), reason="the real traces are not at ../shared/data")


@needs_data
@pytest.mark.parametrize("seconds", [5, 10, 20])
def test_bursts_of_real_requests_are_hardly_ever_abnormal(seconds: int) -> None:
    judged, found = alarms(requests_in_steps_of(seconds, 10))
    assert judged >= 120
    assert found / judged <= 0.002


@needs_data
@pytest.mark.parametrize(("column", "most"), [("created_at", 0), ("closed_at", 4)])
def test_real_issues_are_abnormal_when_a_bot_closes_hundreds_and_hardly_else(column: str, most: int) -> None:
    series = issues_by_day(column, 100)
    judged, found = alarms(series)
    assert judged > 1_900
    assert found <= most
    if column == "closed_at":
        record = series.index(max(series))
        assert is_abnormal(series[record], tuple(series[record - HISTORY_HOURS : record]))


@needs_data
def test_an_hour_of_ten_times_the_real_peak_is_found() -> None:
    series = requests_in_steps_of(10, 10)
    assert is_abnormal(10 * max(series), tuple(series[-HISTORY_HOURS:]))
