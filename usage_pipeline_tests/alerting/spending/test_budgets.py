"""Alerts of budgets on real servers: each share once a period, and over with the period, a higher limit, or the budget."""

import json
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
import redis

from usage_pipeline.alerting.evaluation import evaluate_pipeline
from usage_pipeline.alerting.facts import OrchestrationFacts
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


def limit(postgres: psycopg.Connection, requests: int, period: str = "month", name: str = "search") -> None:
    set_budget(postgres, budget_of(name, "team=search", period, str(requests), "requests", None))


def evaluated(settings: Settings) -> None:
    for _ in range(2):
        evaluate_pipeline(settings, NOTHING, {})


def open_keys(postgres: psycopg.Connection) -> list[str]:
    query = "select dedupe_key from ops.alerts where cleared_at is null order by length(dedupe_key), 1"
    return [key for (key,) in postgres.execute(query)]


def test_each_share_is_told_once_and_over_when_the_limit_is_raised_or_the_budget_removed(
    alerting: Settings, hook: Webhook, postgres: psycopg.Connection
) -> None:
    limit(postgres, 10)
    first = datetime.now(UTC).date().replace(day=1)
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
    assert open_keys(postgres) == [f"budget:search:{first}:{share}" for share in (50, 80, 100)]
    assert hook.received[0]["type"] == "warning"
    assert hook.received[2]["type"] == "failure"
    assert "5 requests of 10 requests are used (team=search)" in hook.received[0]["message"]
    assert "budgets set" in hook.received[0]["message"]
    limit(postgres, 20)
    evaluated(alerting)
    assert sorted(hook.titles[3:]) == ["Cleared: Budget search is used up", "Cleared: Budget search: 80 % are used"]
    assert open_keys(postgres) == [f"budget:search:{first}:50"]
    remove_budget(postgres, "search")
    evaluated(alerting)
    assert open_keys(postgres) == []
    # The same budget in the same period: it was told.
    limit(postgres, 20)
    evaluated(alerting)
    assert len(hook.titles) == 6
    assert open_keys(postgres) == [f"budget:search:{first}:50"]


def test_a_share_is_told_again_in_the_next_period_and_not_before(
    alerting: Settings, hook: Webhook, postgres: psycopg.Connection
) -> None:
    limit(postgres, 1, period="day")
    use(postgres, alerting, 1)
    evaluated(alerting)
    assert len(hook.titles) == 3
    assert cool_down("budget", load_settings(alert_cool_down_minutes=1)) > timedelta(days=31)
    # As if yesterday had been used up: those alerts are over, since today has a period of its own.
    yesterday = datetime.now(UTC).date() - DAY
    postgres.execute(
        "update ops.alerts set dedupe_key = regexp_replace(dedupe_key, '\\d{4}-\\d\\d-\\d\\d', %s)", (str(yesterday),)
    )
    evaluated(alerting)
    assert len([title for title in hook.titles if title.startswith("Cleared: ")]) == 3
    assert len(hook.titles) == 9


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
    assert redis_client.keys("usage_pipeline:budget*") == []


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
