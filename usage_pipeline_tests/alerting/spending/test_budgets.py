"""Alerts of budgets on real servers: each share once a period, and over with the period, a higher limit, or the budget."""

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
import redis

from usage_pipeline.alerting.evaluation import evaluate_pipeline
from usage_pipeline.alerting.facts import OrchestrationFacts, SlowRun
from usage_pipeline.alerting.rules import cool_down
from usage_pipeline.budgets.budget import budget_of
from usage_pipeline.budgets.store import remove_budget, set_budget
from usage_pipeline.rollups.calendar import day_window
from usage_pipeline.rollups.windows import replace_window
from usage_pipeline.settings import Settings, load_settings
from usage_pipeline_tests.rigs.alerts import Webhook, told_at
from usage_pipeline_tests.rigs.windows import event_at, store_events

NOTHING = OrchestrationFacts()
DAY = timedelta(days=1)


@pytest.fixture
def alerting(settings: Settings, hook: Webhook) -> Settings:
    return told_at(hook, settings)


def use(postgres: psycopg.Connection, settings: Settings, requests: int, at: datetime | None = None) -> None:
    now = datetime.now(UTC)
    at = at or now
    store_events(postgres, settings, now, *(event_at(at) for _ in range(requests)))
    replace_window(postgres, day_window(at.date(), settings.timezone), settings=settings)


def limit(
    postgres: psycopg.Connection,
    requests: int,
    period: str = "month",
    name: str = "search",
    scope: str = "team=search",
    alert: str | None = None,
) -> None:
    set_budget(postgres, budget_of(name, scope, period, str(requests), "requests", alert))


def evaluated(settings: Settings) -> None:
    for _ in range(2):
        evaluate_pipeline(settings, NOTHING, {})


def open_shares(postgres: psycopg.Connection) -> list[int]:
    query = "select dedupe_key from ops.alerts where cleared_at is null and rule = 'budget'"
    return sorted(int(key.rpartition(":")[2]) for (key,) in postgres.execute(query))


def raised(hook: Webhook) -> list[str]:
    return [title for title in hook.titles if not title.startswith("Cleared: ")]


def test_each_share_is_told_once_and_over_when_the_limit_is_raised_or_the_budget_removed(
    alerting: Settings, hook: Webhook, postgres: psycopg.Connection
) -> None:
    limit(postgres, 10)
    told: list[str] = []
    for used, titles in (
        (4, []),
        (1, ["Budget search: 50 % are used"]),
        (2, []),
        (2, ["Budget search: 80 % are used"]),
        (1, ["Budget search is used up"]),
        (1, []),
    ):
        use(postgres, alerting, used)
        evaluated(alerting)
        told += titles
        assert hook.titles == told
    assert open_shares(postgres) == [50, 80, 100]
    assert hook.received[0]["type"] == "warning"
    assert hook.received[2]["type"] == "failure"
    assert "5 requests of 10 requests are used (team=search)" in hook.received[0]["message"]
    assert "budgets set" in hook.received[0]["message"]
    limit(postgres, 20)
    evaluated(alerting)
    # What was told is over, and 11 of 20 are news.
    assert sorted(hook.titles[3:]) == [
        "Budget search: 50 % are used",
        "Cleared: Budget search is used up",
        "Cleared: Budget search: 50 % are used",
        "Cleared: Budget search: 80 % are used",
    ]
    assert open_shares(postgres) == [50]
    remove_budget(postgres, "search")
    evaluated(alerting)
    assert open_shares(postgres) == []
    # The same budget in the same period: it was told.
    limit(postgres, 20)
    evaluated(alerting)
    assert len(hook.titles) == 8
    assert open_shares(postgres) == [50]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"requests": 10}, {"requests": 20}),
        ({"requests": 10}, {"requests": 20, "name": "search", "period": "month", "scope": "service=chat"}),
        ({"requests": 20, "scope": "team=other"}, {"requests": 20}),
        ({"requests": 20, "scope": "user=nobody"}, {"requests": 20, "scope": "user=user-1"}),
        ({"requests": 20, "scope": "user=user-1"}, {"requests": 20}),
    ],
    ids=["a higher limit", "another scope", "another team", "another user", "a team after a user"],
)
def test_a_budget_that_was_changed_is_told_when_it_is_used_up_though_the_one_before_was(
    alerting: Settings, hook: Webhook, postgres: psycopg.Connection, before: dict[str, Any], after: dict[str, Any]
) -> None:
    """Who follows the alert's advice and raises the limit hears when the new one is used up, too."""
    limit(postgres, **before, alert="100")
    now = datetime.now(UTC)
    old_scope = before.get("scope", "team=search")
    named = {"team=other": {"team": "other"}, "user=nobody": {"user_id": "nobody"}}.get(
        old_scope, {"user_id": "user-1"}
    )
    store_events(postgres, alerting, now, *(event_at(now, **named) for _ in range(before["requests"])))
    replace_window(postgres, day_window(now.date(), alerting.timezone), settings=alerting)
    evaluated(alerting)
    assert raised(hook) == ["Budget search is used up"]
    limit(postgres, **after, alert="100")
    store_events(postgres, alerting, now, *(event_at(now, user_id="user-1") for _ in range(20)))
    replace_window(postgres, day_window(now.date(), alerting.timezone), settings=alerting)
    evaluated(alerting)
    evaluated(alerting)
    assert raised(hook) == ["Budget search is used up"] * 2
    assert open_shares(postgres) == [100]


def test_a_budget_that_is_removed_and_set_for_another_team_is_told(
    alerting: Settings, hook: Webhook, postgres: psycopg.Connection
) -> None:
    limit(postgres, 5, scope="all", alert="100")
    use(postgres, alerting, 6)
    evaluated(alerting)
    remove_budget(postgres, "search")
    evaluated(alerting)
    limit(postgres, 5, alert="100")
    evaluated(alerting)
    assert hook.titles == ["Budget search is used up", "Cleared: Budget search is used up", "Budget search is used up"]


def test_an_unchanged_budget_is_told_once_by_any_number_of_evaluators(
    alerting: Settings, hook: Webhook, postgres: psycopg.Connection
) -> None:
    use(postgres, alerting, 6)
    for scope in ("team=search", "user=user-1"):
        limit(postgres, 6, scope=scope, name=scope, alert="100")
    for _ in range(3):
        with ThreadPoolExecutor(3) as evaluators:
            for done in [evaluators.submit(evaluate_pipeline, alerting, NOTHING, {}) for _ in range(3)]:
                done.result()
        # As from cron: set again, the same.
        limit(postgres, 6, scope="user=user-1", name="user=user-1", alert="100")
    evaluated(alerting)
    assert sorted(hook.titles) == ["Budget team=search is used up", "Budget user=user-1 is used up"]


def test_the_key_of_an_alert_names_no_user(alerting: Settings, postgres: psycopg.Connection) -> None:
    use(postgres, alerting, 1)
    limit(postgres, 1, scope="user=user-1")
    evaluated(alerting)
    [found] = postgres.execute("select jsonb_agg(alerts)::text like '%user-1%' from ops.alerts").fetchall()
    assert found == (False,)


def test_a_share_is_told_again_in_the_next_period_and_not_before(
    alerting: Settings, hook: Webhook, postgres: psycopg.Connection
) -> None:
    limit(postgres, 1, period="day")
    use(postgres, alerting, 1)
    evaluated(alerting)
    assert hook.titles == ["Budget search is used up"]
    assert cool_down("budget", load_settings(alert_cool_down_minutes=1)) > timedelta(days=31)
    # As if yesterday had been used up: those alerts are over, since today has a period of its own.
    yesterday = datetime.now(UTC).date() - DAY
    postgres.execute(
        "update ops.alerts set dedupe_key = regexp_replace(dedupe_key, '\\d{4}-\\d\\d-\\d\\d', %s)", (str(yesterday),)
    )
    evaluated(alerting)
    assert sorted(hook.titles) == ["Budget search is used up"] * 2 + ["Cleared: Budget search is used up"]


def test_a_budget_that_jumps_over_several_shares_sends_one_message(
    alerting: Settings, hook: Webhook, postgres: psycopg.Connection
) -> None:
    limit(postgres, 10, alert="50,80,100,120")
    use(postgres, alerting, 9)
    evaluated(alerting)
    assert hook.titles == ["Budget search: 80 % are used"]
    assert open_shares(postgres) == [50, 80]
    use(postgres, alerting, 4)
    evaluated(alerting)
    assert hook.titles[1:] == ["Budget search: 120 % are used"]
    assert open_shares(postgres) == [50, 80, 100, 120]
    # Who was told nothing of a share hears nothing of its end.
    remove_budget(postgres, "search")
    evaluated(alerting)
    cleared = ["Cleared: Budget search: 120 % are used", "Cleared: Budget search: 80 % are used"]
    assert sorted(hook.titles[2:]) == cleared


def test_the_share_below_is_told_when_the_one_that_was_told_is_not_reached_any_more(
    alerting: Settings, hook: Webhook, postgres: psycopg.Connection
) -> None:
    """A correction took usage away: 9 of 10 are left."""
    limit(postgres, 10)
    use(postgres, alerting, 10)
    evaluated(alerting)
    assert hook.titles == ["Budget search is used up"]
    postgres.execute("update analytics.usage_daily set requests = 9")
    evaluated(alerting)
    assert sorted(hook.titles[1:]) == ["Budget search: 80 % are used", "Cleared: Budget search is used up"]


def test_many_budgets_hold_up_no_other_alert(alerting: Settings, hook: Webhook, postgres: psycopg.Connection) -> None:
    use(postgres, alerting, 1)
    for number in range(60):
        limit(postgres, 1, name=f"b{number}")
    slow = OrchestrationFacts(slow_runs=(SlowRun("r2", "windows", "all", 660.0),))
    for _ in range(2):
        evaluate_pipeline(alerting, slow, {})
    [budgets, run] = sorted(hook.titles)
    assert budgets.startswith("60 alerts of budget: Budget b0 is used up, and 59 more")
    assert "windows" in run


def test_more_budgets_than_other_rules_tell_are_all_told_and_none_passes_for_over(
    alerting: Settings, postgres: psycopg.Connection
) -> None:
    use(postgres, alerting, 1)
    for number in range(30):
        limit(postgres, 1, name=f"b{number}")
    for _ in range(2):
        found = evaluate_pipeline(alerting.model_copy(update={"alert_urls": None}), NOTHING, {})
        assert (found.open, found.cleared) == (90, 0)


def test_an_evaluation_publishes_how_budgets_stand(
    alerting: Settings, postgres: psycopg.Connection, redis_client: redis.Redis
) -> None:
    limit(postgres, 10)
    use(postgres, alerting, 1)
    evaluated(alerting)
    [published] = json.loads(redis_client.get("usage_pipeline:budget:team=search") or "")["budgets"]
    assert (published["used"], published["limit"]) == ("1", "10")
    use(postgres, alerting, 2)
    evaluated(alerting)
    [published] = json.loads(redis_client.get("usage_pipeline:budget:team=search") or "")["budgets"]
    assert published["used"] == "3"
    remove_budget(postgres, "search")
    evaluated(alerting)
    assert redis_client.keys("usage_pipeline:budget*") == [b"usage_pipeline:budget:as_of"]


def test_without_redis_budgets_are_told_all_the_same(
    alerting: Settings, hook: Webhook, postgres: psycopg.Connection
) -> None:
    limit(postgres, 2)
    use(postgres, alerting, 1)
    away = load_settings(
        database_url=alerting.database_url.get_secret_value(),
        redis_url="redis://127.0.0.1:9/0",
        alert_urls=f"json://127.0.0.1:{hook.port}/",
    )
    evaluated(away)
    assert hook.titles == ["Budget search: 50 % are used"]
