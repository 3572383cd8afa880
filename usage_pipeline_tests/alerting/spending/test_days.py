"""A closed day of a team against its own history: what is found, what is left alone, and how it is read."""

import random
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise

import psycopg
import pytest
from psycopg.types.json import Jsonb

from usage_pipeline.alerting.evaluation import evaluate_pipeline
from usage_pipeline.alerting.facts import OrchestrationFacts
from usage_pipeline.alerting.spending.days import HISTORY_DAYS, LEAST_DAYS, Measure, TeamDay, is_abnormal
from usage_pipeline.alerting.spending.reading import due_day, read_days
from usage_pipeline.rollups.calendar import day_window
from usage_pipeline.rollups.windows import replace_window
from usage_pipeline.settings import Settings, load_settings
from usage_pipeline_tests.rigs.alerts import Webhook, told_at
from usage_pipeline_tests.rigs.windows import event_at, store_events

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
        (206.0, STEADY, "cost", True),
        (0.0, STEADY, "cost", False),
        # Weekends are no weekdays, and a job of each Sunday is none of its Mondays.
        (140.0, WEEKS, "cost", False),
        (300.0, WEEKS, "cost", True),
        (600.0, WEEKLY_JOB, "cost", False),
        (3_000.0, WEEKLY_JOB, "cost", True),
        # Small sums are nobody's concern.
        (9.99, (0.1,) * 28, "cost", False),
        (10.0, (0.1,) * 28, "cost", True),
        (1_000.0, STEADY[: LEAST_DAYS - 1], "cost", False),
        (1_000.0, STEADY[:LEAST_DAYS], "cost", True),
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


def test_years_of_usual_traffic_raise_hardly_anything() -> None:
    """Weekdays and weekends, a growth by half in a year, and chance of a third: 8 teams over 5 years."""
    chance = random.Random(1)
    judged = alarms = 0
    for _ in range(8):
        days = [
            (300.0 if day % 7 < 5 else 60.0) * (1 + day / 730) * chance.lognormvariate(0, 0.3) for day in range(1_825)
        ]
        for at in range(HISTORY_DAYS, len(days)):
            judged += 1
            alarms += found(days[at], tuple(days[at - HISTORY_DAYS : at]))
    assert judged > 14_000
    assert alarms / judged < 0.001


def test_a_day_is_due_half_an_hour_after_its_end_and_once() -> None:
    settings = load_settings(usage_timezone="Europe/Vienna")
    end = day_window(DAY, settings.timezone).end
    assert due_day("", end + timedelta(minutes=29), settings) == DAY - timedelta(days=1)
    assert due_day("2026-11-18", end + timedelta(minutes=29), settings) is None
    assert due_day("2026-11-18", end + timedelta(minutes=30), settings) == DAY
    assert due_day("2026-11-19", end + timedelta(hours=23), settings) is None
    assert due_day("2026-01-01", end + timedelta(hours=12), settings) == DAY


def write_days(postgres: psycopg.Connection, last: date, team: str, costs: list[float], **columns: object) -> None:
    """As if these days up to `last` had been rolled up."""
    for number, cost in enumerate(reversed(costs)):
        values = {
            "requests": 200,
            "errors": 2,
            "unpriced_requests": 0,
            "input_tokens": 1,
            "output_tokens": 1,
            "total_tokens": 2,
            **columns,
        }
        names = ", ".join(values)
        postgres.execute(
            f"insert into analytics.usage_daily (usage_date, team, service, provider, model, cost_usd, distinct_users, {names})"
            f" values (%s, %s, 's', 'p', 'm', %s, 1, {', '.join(['%s'] * len(values))})",
            (last - timedelta(days=number), team, cost, *values.values()),
        )


@pytest.fixture
def yesterday() -> date:
    return (datetime.now(UTC) - timedelta(minutes=31)).date() - timedelta(days=1)


def test_a_jump_of_yesterday_is_told_once_and_over_with_the_next_usual_day(
    settings: Settings, hook: Webhook, postgres: psycopg.Connection, yesterday: date
) -> None:
    alerting = told_at(hook, settings)
    write_days(postgres, yesterday, "steady", [100.0, 110.0] * 15)
    write_days(postgres, yesterday, "jumping", [*[100.0, 110.0] * 14, 105.0, 900.0])
    write_days(postgres, yesterday, "new", [1.0, 900.0])
    write_days(postgres, yesterday - timedelta(days=1), "gone", [*[100.0] * 20, 900.0])
    for _ in range(2):
        evaluate_pipeline(alerting, OrchestrationFacts(), {})
    assert hook.titles == [f"The cost of team jumping was far above the usual on {yesterday}"]
    assert "900.00 USD. In the 28 days before, the median was 107.50 USD and the most 110.00 USD" in str(hook.received)
    # As if the day that was judged had been the one before, and yesterday usual.
    postgres.execute("update analytics.usage_daily set cost_usd = 100 where usage_date = %s", (yesterday,))
    [[details]] = postgres.execute("select details from ops.heartbeats where name = 'scheduler'").fetchall()
    assert details["judged_day"] == str(yesterday)
    details["judged_day"] = str(yesterday - timedelta(days=1))
    postgres.execute("update ops.heartbeats set details = %s where name = 'scheduler'", (Jsonb(details),))
    for _ in range(2):
        evaluate_pipeline(alerting, OrchestrationFacts(), {})
    assert hook.titles[1:] == [f"Cleared: The cost of team jumping was far above the usual on {yesterday}"]


def test_a_day_that_is_not_rolled_up_waits(
    settings: Settings, hook: Webhook, postgres: psycopg.Connection, yesterday: date
) -> None:
    alerting = told_at(hook, settings)
    write_days(postgres, yesterday, "jumping", [*[100.0, 110.0] * 14, 105.0, 900.0])
    start = day_window(yesterday, settings.timezone)
    postgres.execute(
        "insert into ops.touched_windows (grain, window_start, touched_at) values ('day', %s, %s)",
        (start.start, start.end - timedelta(hours=1)),
    )
    evaluate_pipeline(alerting, OrchestrationFacts(), {})
    assert hook.titles == []
    postgres.execute("delete from ops.touched_windows")
    evaluate_pipeline(alerting, OrchestrationFacts(), {})
    assert len(hook.titles) == 1


def test_costs_errors_and_latencies_are_those_of_the_events(
    postgres: psycopg.Connection, settings: Settings, yesterday: date
) -> None:
    now = datetime.now(UTC)
    noon = datetime(yesterday.year, yesterday.month, yesterday.day, 12, tzinfo=UTC)
    events = []
    for ago, (requests, errors, ms) in enumerate(
        [(200, 50, 5_000), (100, 0, 300), (99, 0, 300), (0, 0, 0), (100, 1, 9)]
    ):
        at = noon - timedelta(days=ago)
        events += [
            event_at(at, latency_ms=ms, **({"status_code": 500} if number < errors else {}))
            for number in range(requests)
        ]
    events.append(event_at(noon, team="small"))
    for first, until in pairwise([*range(0, len(events), 500), len(events)]):
        store_events(postgres, settings, now, *events[first:until])
    for ago in range(5):
        replace_window(postgres, day_window(yesterday - timedelta(days=ago), settings.timezone), settings=settings)
    days = {(one.team, one.measure): one for one in read_days(postgres, settings, yesterday)}
    assert set(days) == {("search", "cost"), ("search", "error-rate"), ("search", "latency"), ("small", "cost")}
    # A day without usage costs nothing; with few requests or none, it has no rate and no percentile.
    cost = days["search", "cost"]
    assert (round(cost.value, 6), [round(one, 6) for one in cost.history]) == (2.0, [1.0, 0.0, 0.99, 1.0])
    assert (days["search", "error-rate"].value, days["search", "error-rate"].history) == (0.25, (0.01, 0.0))
    assert (days["search", "latency"].value, days["search", "latency"].history) == (5_000.0, (9.0, 300.0))
    assert days["small", "cost"].history == ()
