"""A day of a team against its own history: what is found, what is left alone, how often usual costs raise an alarm. Pure."""

import random
from collections.abc import Callable
from datetime import date

import pytest

from usage_pipeline.alerting.spending.days import HISTORY_DAYS, LEAST_DAYS, Measure, TeamDay, is_abnormal

DAY = date(2026, 11, 19)
STEADY = (95.0, 100.0, 105.0, 110.0) * 7
WEEKS = ((100.0,) * 5 + (10.0,) * 2) * 4
WEEKLY_JOB = ((1.0,) * 6 + (500.0,)) * 4


def found(value: float, history: tuple[float, ...], measure: Measure = "cost") -> bool:
    return is_abnormal(TeamDay("t", DAY, measure, value, history))


@pytest.mark.parametrize(
    ("value", "history", "measure", "expected"),
    [
        (150.0, STEADY, "cost", False),
        (204.9, STEADY, "cost", False),
        (219.0, STEADY, "cost", False),
        (226.0, STEADY, "cost", True),
        (0.0, STEADY, "cost", False),
        # Weekends are no weekdays, and a job of each Sunday is none of its Mondays.
        (140.0, WEEKS, "cost", False),
        (300.0, WEEKS, "cost", True),
        (600.0, WEEKLY_JOB, "cost", False),
        (3_000.0, WEEKLY_JOB, "cost", True),
        # Small sums are nobody's concern.
        (9.99, (0.1,) * 28, "cost", False),
        (10.0, (0.1,) * 28, "cost", True),
        (999.0, STEADY[: LEAST_DAYS - 1], "cost", False),
        (999.0, STEADY[:LEAST_DAYS], "cost", True),
        (0.04, (0.01,) * 28, "error-rate", False),
        (0.06, (0.01, 0.012) * 14, "error-rate", True),
        (0.06, (0.04, 0.05) * 14, "error-rate", False),
        (900.0, (100.0,) * 28, "latency", False),
        (4_000.0, (900.0, 1_100.0) * 14, "latency", True),
        (1_900.0, (900.0, 1_100.0) * 14, "latency", False),
    ],
)
def test_a_day_is_abnormal_far_above_its_own_history_only(
    value: float, history: tuple[float, ...], measure: Measure, expected: bool
) -> None:
    assert found(value, history, measure) == expected


def test_an_incident_in_the_history_does_not_hide_the_same_again() -> None:
    assert found(2_000.0, (*STEADY[1:], 2_000.0))


QUARTER = ((100.0,) * 5 + (20.0, 15.0)) * 13


@pytest.mark.parametrize(
    ("value", "history", "expected"),
    [
        # One earlier spike, of one to three days, hides no new one; jobs of each month are usual.
        (1_500.0, (*(20.0,) * 40, 5_000.0, *(20.0,) * 50), True),
        (1_500.0, (*(20.0,) * 40, 1_000.0, 5_000.0, 3_000.0, *(20.0,) * 48), True),
        (500.0, ((20.0,) * 29 + (500.0,)) * 3, False),
        # Ten times a quiet weekday, which is nothing on others. The day after the quarter is the first of its week.
        (150.0, QUARTER[5:] + QUARTER[:5], True),
        (150.0, QUARTER, False),
        (50.0, QUARTER[5:] + QUARTER[:5], False),
        # A team that was silent, and came back.
        (10_000.0, (0.0,) * 91, True),
        (99.0, (0.0,) * 91, False),
        # What is not known is no zero.
        (100.0, (None,) * 78 + (95.0, 105.0) * 6 + (100.0,), False),
        (5_000.0, (None,) * 78 + (95.0, 105.0) * 6 + (100.0,), False),
        (5_000.0, (None,) * 77 + (95.0, 105.0) * 7, True),
        # Little history: a large sum, far above its own days.
        (10_000.0, (100.0,) * 13, True),
        (10_000.0, (6_000.0,) * 13, False),
        (999.0, (1.0,) * 13, False),
        (1_000.0, (), True),
        (10_000.0, (None, 100.0), False),
    ],
)
def test_a_day_is_compared_with_what_is_like_it(
    value: float, history: tuple[float | None, ...], expected: bool
) -> None:
    assert is_abnormal(TeamDay("t", DAY, "cost", value, history)) == expected


def test_a_new_team_is_compared_with_busy_days_of_others() -> None:
    def is_found(elsewhere: float) -> bool:
        return is_abnormal(TeamDay("t", DAY, "cost", 3_000.0, (5.0,), elsewhere))

    assert (is_found(1_400.0), is_found(1_600.0)) == (True, False)


def test_years_of_usual_traffic_raise_hardly_anything() -> None:
    """Weekdays and weekends, a growth by half in a year, and chance of a third: 8 teams over 5 years."""
    chance = random.Random(1)
    judged = alarms = 0
    for _ in range(8):
        days = [
            (300.0 if day % 7 < 5 else 60.0) * (1 + day / 730) * chance.lognormvariate(0, 0.3) for day in range(1_825)
        ]
        for at in range(LEAST_DAYS, len(days)):
            judged += 1
            alarms += found(days[at], tuple(days[max(0, at - HISTORY_DAYS["cost"]) : at]))
    assert judged > 14_000
    assert alarms / judged < 0.001


WEEK = (1.0, 1.0, 1.0, 1.0, 1.0, 0.2, 0.15)


def a_week(day: int, chance: random.Random) -> float:
    return 100 * WEEK[day % 7] * max(0.1, chance.gauss(1, 0.2))


def by_chance(_: int, chance: random.Random) -> float:
    return 50 * chance.lognormvariate(0, 0.5)


def each_month(day: int, chance: random.Random) -> float:
    return 10 * max(0.1, chance.gauss(1, 0.2)) + (60 if day % 30 == 0 else 0)


def jobs(_: int, chance: random.Random) -> float:
    return 80.0 if chance.random() < 0.07 else 0.0


def growth(day: int, chance: random.Random) -> float:
    return 5 * 2 ** (day / 42) * max(0.1, chance.gauss(1, 0.2))


@pytest.mark.parametrize(
    ("costs", "most"),
    [(a_week, 1), (by_chance, 4), (each_month, 6), (jobs, 4), (growth, 1)],
    ids=lambda one: getattr(one, "__name__", str(one)),
)
def test_usual_costs_raise_as_few_alarms_as_the_page_says(
    costs: Callable[[int, random.Random], float], most: int
) -> None:
    """4 teams over 400 days, by chance that is the same each time."""
    alarms = 0
    for team in range(4):
        chance = random.Random(team)
        days = [costs(day, chance) for day in range(400)]
        for at in range(LEAST_DAYS, len(days)):
            alarms += found(days[at], tuple(days[max(0, at - HISTORY_DAYS["cost"]) : at]))
    assert alarms <= most


@pytest.mark.parametrize("has_spike", [False, True])
def test_ten_times_the_usual_is_found_on_every_weekday_also_after_a_spike(has_spike: bool) -> None:
    chance = random.Random(5)
    for _ in range(20):
        days = [a_week(day, chance) for day in range(98)]
        if has_spike:
            days[80] *= 50
        for weekday in range(7):
            history = tuple((days[weekday:] + days[:weekday])[-91:])
            assert found(10 * 100 * WEEK[weekday], history), weekday
