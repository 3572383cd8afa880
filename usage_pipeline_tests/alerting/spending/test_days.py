"""Closed days of teams: which are due, how they are read, and when they are told and over."""

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from types import SimpleNamespace

import psycopg
import pytest
from psycopg.types.json import Jsonb

from usage_pipeline.alerting.evaluation import evaluate_pipeline
from usage_pipeline.alerting.facts import OrchestrationFacts
from usage_pipeline.alerting.spending.reading import due_days, read_days
from usage_pipeline.rollups.calendar import day_window
from usage_pipeline.rollups.windows import replace_window
from usage_pipeline.settings import Settings, load_settings
from usage_pipeline_tests.rigs.alerts import Webhook, told_at
from usage_pipeline_tests.rigs.windows import event_at, store_events

DAY = date(2026, 11, 19)


def test_days_are_due_half_an_hour_after_their_end_and_once() -> None:
    settings = load_settings(usage_timezone="Europe/Vienna")
    end = day_window(DAY, settings.timezone).end
    before = DAY - timedelta(days=1)
    assert due_days("", (), end + timedelta(minutes=29), settings) == [before]
    assert due_days("2026-11-18", (), end + timedelta(minutes=29), settings) == []
    assert due_days("2026-11-18", (), end + timedelta(minutes=30), settings) == [DAY]
    assert due_days("2026-11-19", (), end + timedelta(hours=23), settings) == []
    # After a pause; of weeks, the last one.
    assert due_days("2026-11-16", (), end + timedelta(hours=12), settings) == [
        date(2026, 11, 17),
        date(2026, 11, 18),
        DAY,
    ]
    assert due_days("2026-01-01", (), end + timedelta(hours=12), settings)[0] == DAY - timedelta(days=6)
    # One that waited for its roll-up comes again, for a week.
    waiting = ("2026-11-12", "2026-11-13", "2026-11-16")
    assert due_days("2026-11-19", waiting, end + timedelta(hours=1), settings) == [
        date(2026, 11, 13),
        date(2026, 11, 16),
    ]


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
    assert "900.00 USD. In the 29 days before, the median was 105.00 USD and the most 110.00 USD" in str(hook.received)
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


def remember(postgres: psycopg.Connection, **details: object) -> dict[str, object]:
    """The memory of the alerts, with these details instead."""
    [[found]] = postgres.execute("select details from ops.heartbeats where name = 'scheduler'").fetchall()
    changed = {**found, **details}
    postgres.execute("update ops.heartbeats set details = %s where name = 'scheduler'", (Jsonb(changed),))
    return dict(found)


def test_days_that_ended_while_alerts_were_off_are_judged(
    settings: Settings, hook: Webhook, postgres: psycopg.Connection, yesterday: date
) -> None:
    alerting = told_at(hook, settings)
    write_days(postgres, yesterday, "jumping", [*[100.0, 110.0] * 14, 900.0, 105.0, 110.0])
    evaluate_pipeline(alerting, OrchestrationFacts(), {})
    assert hook.titles == []
    remember(postgres, judged_day=str(yesterday - timedelta(days=4)))
    for _ in range(2):
        evaluate_pipeline(alerting, OrchestrationFacts(), {})
    told = f"The cost of team jumping was far above the usual on {yesterday - timedelta(days=2)}"
    assert hook.titles == [told]
    remember(postgres, judged_day=str(yesterday - timedelta(days=1)))
    for _ in range(2):
        evaluate_pipeline(alerting, OrchestrationFacts(), {})
    assert hook.titles == [told, f"Cleared: {told}"]


def test_each_day_of_an_incident_is_told_once_and_all_are_over_with_the_first_usual_one(
    settings: Settings, hook: Webhook, postgres: psycopg.Connection, yesterday: date
) -> None:
    alerting = told_at(hook, settings)
    write_days(postgres, yesterday, "jumping", [*[100.0, 110.0] * 14, 900.0, 950.0, 105.0])
    evaluate_pipeline(alerting, OrchestrationFacts(), {})
    days = [yesterday - timedelta(days=ago) for ago in (2, 1)]
    told = [f"The cost of team jumping was far above the usual on {day}" for day in days]
    postgres.execute("update analytics.usage_daily set cost_usd = 960 where usage_date = %s", (yesterday,))
    for day in days:
        remember(postgres, judged_day=str(day - timedelta(days=1)))
        evaluate_as_of(alerting, day)
        assert hook.titles == told[: days.index(day) + 1]
    postgres.execute("update analytics.usage_daily set cost_usd = 100 where usage_date = %s", (yesterday,))
    for _ in range(2):
        evaluate_pipeline(alerting, OrchestrationFacts(), {})
    assert sorted(hook.titles[2:]) == [f"Cleared: {title}" for title in told]


def test_a_day_on_which_nobody_used_anything_is_as_usual(
    settings: Settings, hook: Webhook, postgres: psycopg.Connection, yesterday: date
) -> None:
    alerting = told_at(hook, settings)
    before = yesterday - timedelta(days=1)
    write_days(postgres, before, "jumping", [*[100.0, 110.0] * 14, 900.0])
    evaluate_as_of(alerting, before)
    told = f"The cost of team jumping was far above the usual on {before}"
    assert hook.titles == [told]
    for _ in range(2):
        evaluate_pipeline(alerting, OrchestrationFacts(), {})
    assert hook.titles == [told, f"Cleared: {told}"]


def evaluate_as_of(alerting: Settings, day: date) -> None:
    """As an evaluation in the first hour after that day."""
    now = datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(days=1, hours=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("usage_pipeline.alerting.evaluation.datetime", SimpleNamespace(now=lambda _: now))
        evaluate_pipeline(alerting, OrchestrationFacts(), {})


def test_a_day_whose_roll_up_is_stuck_holds_up_no_other_and_is_judged_when_it_is_made(
    settings: Settings, hook: Webhook, postgres: psycopg.Connection, yesterday: date
) -> None:
    alerting = told_at(hook, settings)
    write_days(postgres, yesterday, "early", [*[100.0, 110.0] * 14, 900.0, 105.0])
    write_days(postgres, yesterday, "late", [*[100.0, 110.0] * 14, 105.0, 900.0])
    stuck = day_window(yesterday - timedelta(days=1), settings.timezone)
    postgres.execute(
        "insert into ops.touched_windows (grain, window_start, touched_at) values ('day', %s, %s)",
        (stuck.start, stuck.end - timedelta(hours=1)),
    )
    evaluate_pipeline(alerting, OrchestrationFacts(), {})
    late = f"The cost of team late was far above the usual on {yesterday}"
    remember(postgres, judged_day=str(yesterday - timedelta(days=2)))
    postgres.execute("delete from ops.alerts")
    hook.received.clear()
    for _ in range(2):
        evaluate_pipeline(alerting, OrchestrationFacts(), {})
    assert hook.titles == [late]
    assert remember(postgres)["waiting_days"] == [str(stuck.day)]
    postgres.execute("delete from ops.touched_windows")
    for _ in range(3):
        evaluate_pipeline(alerting, OrchestrationFacts(), {})
    # The newer one, which was judged before, is not over by that.
    assert hook.titles == [late, f"The cost of team early was far above the usual on {stuck.day}"]
    assert remember(postgres)["waiting_days"] == []


def test_a_team_that_was_silent_for_a_month_is_judged(
    settings: Settings, hook: Webhook, postgres: psycopg.Connection, yesterday: date
) -> None:
    alerting = told_at(hook, settings)
    write_days(postgres, yesterday - timedelta(days=150), "long silent", [5.0])
    write_days(postgres, yesterday - timedelta(days=30), "silent", [5.0])
    write_days(postgres, yesterday - timedelta(days=1), "young", [5.0] * 13)
    for team in ("long silent", "silent", "young", "unknown"):
        write_days(postgres, yesterday, team, [10_000.0])
    write_days(postgres, yesterday - timedelta(days=500), "back", [5.0])
    write_days(postgres, yesterday, "back", [900.0])
    for _ in range(2):
        evaluate_pipeline(alerting, OrchestrationFacts(), {})
    [told] = hook.received
    assert told["title"].startswith("[usage_pipeline] 4 alerts of abnormal-day: ")
    for team in ("long silent", "silent", "unknown", "young"):
        assert f"The cost of team {team} was far above the usual on {yesterday}" in told["message"]


@pytest.mark.parametrize("unpriced", [200, 150])
def test_a_price_that_appears_is_no_jump(
    settings: Settings, hook: Webhook, postgres: psycopg.Connection, yesterday: date, unpriced: int
) -> None:
    alerting = told_at(hook, settings)
    write_days(postgres, yesterday, "priced", [*[1.0] * 30, 5_000.0])
    postgres.execute(
        "update analytics.usage_daily set unpriced_requests = %s where usage_date < %s", (unpriced, yesterday)
    )
    # Some requests never have a price: like is compared with like.
    write_days(postgres, yesterday, "partly", [*[100.0] * 30, 5_000.0], unpriced_requests=20)
    for _ in range(2):
        evaluate_pipeline(alerting, OrchestrationFacts(), {})
    assert hook.titles == [f"The cost of team partly was far above the usual on {yesterday}"]


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
    days = {
        (one.team, one.measure): one for one in read_days(postgres, settings, {yesterday}, yesterday) if one.is_news
    }
    assert set(days) == {("search", "cost"), ("search", "error-rate"), ("search", "latency"), ("small", "cost")}
    # A day without usage costs nothing; with few requests or none, it has no rate and no percentile.
    cost = days["search", "cost"]
    assert (round(cost.value, 6), [round(one, 6) for one in cost.history]) == (2.0, [1.0, 0.0, 0.99, 1.0])
    assert (days["search", "error-rate"].value, days["search", "error-rate"].history) == (
        0.25,
        (0.01, None, None, 0.0),
    )
    assert (days["search", "latency"].value, days["search", "latency"].history) == (
        5_000.0,
        (9.0, None, None, 300.0),
    )
    assert days["small", "cost"].history == ()
