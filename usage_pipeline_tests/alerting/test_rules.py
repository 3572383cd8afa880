"""Each rule on the near and the far side of its threshold; what an alert says; what was not read is not judged."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest

from usage_pipeline.alerting.abnormal_usage import UsageHour
from usage_pipeline.alerting.facts import (
    Aggregation,
    BacklogAge,
    EndingToken,
    ExpiringTokenKeys,
    FailedRun,
    FailingTicks,
    MissingUsage,
    OpenDeadLetters,
    OpenRegressions,
    OrchestrationFacts,
    PipelineFacts,
    RedisLoad,
    SlowRun,
    UncertainBatches,
)
from usage_pipeline.alerting.rules import RULES, cool_down, evaluate, recurrence
from usage_pipeline.alerting.spending.days import TeamDay
from usage_pipeline.budgets.budget import budget_of
from usage_pipeline.budgets.standing import Standing
from usage_pipeline.settings import Settings, load_settings
from usage_pipeline_tests.rigs.places import DOCS

AT = datetime(2026, 11, 20, 13, tzinfo=UTC)
TODAY, YESTERDAY = date(2026, 11, 20), date(2026, 11, 19)
MB = 2**20
UTC_ZONE = ZoneInfo("UTC")
ENDING = EndingToken("upt_0123456789ab", "loader", AT, is_used=True)
FAILED = FailedRun("r1", "daily_tables", "2026-11-19", AT, "division by zero")


def runs(**parts: tuple[object, ...]) -> PipelineFacts:
    return PipelineFacts(orchestration=OrchestrationFacts(**parts))  # type: ignore[arg-type]


def ticks(failures: int, name: str = "drain_metrics") -> PipelineFacts:
    return runs(ticks=(FailingTicks(name, failures, "PostgreSQL does not answer", name.startswith("drain")),))


def backlog(age_seconds: float, interval_seconds: float = 60.0) -> PipelineFacts:
    return PipelineFacts(backlog=(BacklogAge("token", 7, 1, age_seconds, interval_seconds),))


def missing(days: int) -> PipelineFacts:
    first = TODAY - timedelta(days=days - 1)
    amounts = (Decimal(1_234), Decimal(50_000))
    return PipelineFacts(missing_usage=(MissingUsage("token", "usage_count", *amounts, days, first, TODAY, AT),))


def load(
    memory: int, keys: int, usual_memory: int | None = 1_000 * MB, usual_keys: int | None = 100_000
) -> PipelineFacts:
    return PipelineFacts(redis=RedisLoad(memory * MB, 0, keys, usual_memory, usual_keys))


def aggregated(yesterday: int | None, today: int, hours_into_day: float) -> PipelineFacts:
    found = [Aggregation(TODAY, AT, today, True, hours_into_day)]
    if yesterday is not None:
        found.insert(0, Aggregation(YESTERDAY, AT, yesterday, False, hours_into_day))
    return PipelineFacts(aggregations=tuple(found))


def used(uses: int, history: tuple[int, ...] = (50, 60) * 168) -> PipelineFacts:
    return PipelineFacts(usage_hours=(UsageHour("token", "t1", AT, uses, history),))


def spent(used: str, limit: str = "100", unpriced: int = 0, scope: str = "team=search") -> PipelineFacts:
    budget = budget_of("b", scope, "month", limit, "usd", None)
    return PipelineFacts(budgets=(Standing(budget, budget.window(AT, UTC_ZONE), Decimal(used), unpriced, AT),))


def day_of_team(value: float) -> PipelineFacts:
    return PipelineFacts(team_days=(TeamDay("search", YESTERDAY, "cost", value, (100.0, 120.0) * 14),))


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (runs(), None),
        (runs(failed_runs=(FAILED,)), "failed-run:daily_tables:2026-11-19"),
        (runs(slow_runs=(SlowRun("r2", "windows", "all", 300.0),)), None),
        (runs(slow_runs=(SlowRun("r2", "windows", "all", 300.1),)), "long-run:r2"),
        (ticks(2), None),
        (ticks(3), "failed-drains:drain_metrics"),
        (ticks(2, "late_days"), None),
        (ticks(3, "late_days"), "failed-ticks:late_days"),
        (backlog(120.0), None),
        (backlog(120.1), "backlog-age:token"),
        # Two intervals of 5 s are less than evaluations can tell.
        (backlog(60.0, 5.0), None),
        (backlog(60.1, 5.0), "backlog-age:token"),
        (load(2_000, 200_000), None),
        (load(2_001, 100_000), "redis-surge"),
        (load(1_000, 200_001), "redis-surge"),
        # Small ones may double, and nothing is usual at first.
        (load(60, 100, 20 * MB, 10), None),
        (load(85, 100, 20 * MB, 10), "redis-surge"),
        (load(20, 50_011, 20 * MB, 10), "redis-surge"),
        (load(9_999, 9_999_999, None, None), None),
        (PipelineFacts(redis=RedisLoad(900 * MB, 1_000 * MB, 1, None, None)), None),
        (PipelineFacts(redis=RedisLoad(901 * MB, 1_000 * MB, 1, None, None)), "redis-surge"),
        (aggregated(5, 0, 1.0), None),
        (aggregated(5, 0, 6.0), "empty-aggregation"),
        (aggregated(0, 5, 1.0), "empty-aggregation"),
        (aggregated(0, 0, 1.0), "empty-aggregation"),
        (aggregated(None, 0, 1.0), "empty-aggregation"),
        (aggregated(5, 5, 23.0), None),
        (PipelineFacts(dead_letters=()), None),
        (PipelineFacts(dead_letters=(OpenDeadLetters("event", 2, "expected JSON"),)), "dead-letters:event"),
        (PipelineFacts(regressions=()), None),
        (PipelineFacts(regressions=(OpenRegressions(1, "m", "orders", TODAY),)), "counter-regression"),
        (PipelineFacts(missing_usage=()), None),
        (missing(1), "missing-usage:token"),
        (PipelineFacts(uncertain=()), None),
        (PipelineFacts(uncertain=(UncertainBatches(3, 40, AT),)), "uncertain-batches"),
        (PipelineFacts(expiring_tokens=()), None),
        (PipelineFacts(expiring_tokens=(ExpiringTokenKeys(100, 4, 1.5, AT),)), "expiring-token-keys"),
        (PipelineFacts(ending_tokens=()), None),
        (PipelineFacts(ending_tokens=(ENDING,)), "token-ends-soon:upt_0123456789ab"),
        (used(120), None),
        (used(1_000), "abnormal-usage:token:t1"),
        (spent("49.99"), None),
        (spent("50"), "budget:b:2026-11-01:month:100 usd:team=search:50"),
        (spent("0", limit="0.01"), None),
        (day_of_team(219.0), None),
        (day_of_team(900.0), "abnormal-day:cost:search:2026-11-19"),
    ],
)
def test_a_rule_raises_beyond_its_threshold_only(facts: PipelineFacts, expected: str | None) -> None:
    judgement = evaluate(facts, load_settings())
    assert [alert.dedupe_key for alert in judgement.alerts] == ([expected] if expected else [])


@pytest.mark.parametrize(
    ("facts", "numbers"),
    [
        (runs(failed_runs=(FAILED,)), ["r1", "2026-11-19", "division by zero"]),
        (runs(slow_runs=(SlowRun("r2", "windows", "all", 660.0),)), ["r2", "660 s", "300 s"]),
        (ticks(3), ["3", "PostgreSQL does not answer"]),
        (backlog(500.0), ["7 keys", "1 batch is", "500 s", "120 s"]),
        (load(3_000, 300_000), ["3000 MB", "1000 MB", "300,000 keys", "100,000"]),
        (aggregated(0, 0, 1.0), ["2026-11-19", "2026-11-20"]),
        (PipelineFacts(dead_letters=(OpenDeadLetters("event", 2, "expected JSON"),)), ["2 keys", "expected JSON"]),
        (PipelineFacts(regressions=(OpenRegressions(9, "m", "orders", TODAY),)), ["9 counters", "orders of m"]),
        (
            missing(1),
            ["Of 50,000 usage_count", "for 2026-11-20, 1,234 cannot be found", "not stored", "since 2026-11-20 13:00"],
        ),
        (missing(2), ["for 2 days from 2026-11-19 to 2026-11-20"]),
        (PipelineFacts(uncertain=(UncertainBatches(3, 40, AT),)), ["3 batches", "40 keys", "13:00:00"]),
        (PipelineFacts(expiring_tokens=(ExpiringTokenKeys(100, 4, 1.6, AT),)), ["100 token keys", "4 had", "2 s"]),
        (PipelineFacts(ending_tokens=(ENDING,)), ["upt_0123456789ab", "loader", "2026-11-20 13:00 UTC", "was used"]),
        (used(1_000), ["1,000 uses", "2026-11-20 13:00", "55", "60"]),
        (
            spent("64.5", unpriced=7),
            [
                "64.50 USD of 100.00 USD are used (team=search) in the month from 2026-11-01 to 2026-11-30, as of 2026-11",
                "At the present rate it will be 99.",
                "7 requests without a price are not in it",
            ],
        ),
        (spent("60", scope="user=zo"), ["(a user)"]),
        (
            day_of_team(900.0),
            ["2026-11-19: 900.00 USD", "In the 28 days before, the median was 110", "most 120.00 USD"],
        ),
    ],
)
def test_an_alert_says_what_happened_with_numbers_and_what_to_do(facts: PipelineFacts, numbers: list[str]) -> None:
    [alert] = evaluate(facts, load_settings()).alerts
    for number in numbers:
        assert number in alert.text
    assert "\n" not in alert.title + alert.text
    assert len(alert.remedy) > 40


@pytest.mark.parametrize(
    ("settings", "facts", "is_raised"),
    [
        ({"alert_long_run_seconds": 600}, runs(slow_runs=(SlowRun("r", "j", "all", 599.0),)), False),
        ({"alert_redis_growth": 1.5}, load(1_600, 1), True),
        ({"alert_usage_score": 900.0}, used(1_000), False),
        ({"alert_usage_floor": 1_001}, used(1_000), False),
    ],
)
def test_thresholds_are_settings(settings: dict[str, float], facts: PipelineFacts, is_raised: bool) -> None:
    assert bool(evaluate(facts, load_settings(**settings)).alerts) == is_raised


def test_only_rules_whose_facts_are_known_are_judged() -> None:
    assert evaluate(PipelineFacts(), load_settings()).judged == frozenset()
    judged = evaluate(PipelineFacts(orchestration=OrchestrationFacts(), dead_letters=()), load_settings()).judged
    assert judged == {rule.name for rule in RULES if rule.part == "orchestration"} | {"dead-letters"}
    partly = OrchestrationFacts(partly=frozenset({"failed-run"}))
    assert "failed-run" not in evaluate(PipelineFacts(orchestration=partly), load_settings()).judged


def test_all_of_a_flood_is_open_since_what_is_left_out_would_pass_for_over() -> None:
    flood = tuple(replace(FAILED, target=str(number)) for number in range(500))
    assert len(evaluate(runs(failed_runs=flood), load_settings()).alerts) == 500


def test_what_a_day_does_not_change_is_repeated_once_a_day() -> None:
    settings: Settings = load_settings(alert_cool_down_minutes=30)
    assert cool_down("long-run", settings) == timedelta(minutes=30)
    assert cool_down("dead-letters", settings) == timedelta(hours=12)


def test_what_comes_back_is_told_after_minutes_whatever_repetition_waits_for() -> None:
    for minutes, pause in ((30, 15), (5, 5)):
        settings = load_settings(alert_cool_down_minutes=minutes)
        assert recurrence("long-run", settings) == timedelta(minutes=pause)
    assert recurrence("dead-letters", load_settings()) == timedelta(minutes=15)
    assert recurrence("budget", load_settings()) > timedelta(days=31)


def test_every_rule_has_its_heading_in_the_documentation() -> None:
    text = (DOCS / "alerts.md").read_text(encoding="utf-8")
    headings = [line.removeprefix("### ") for line in text.splitlines() if line.startswith("### ")]
    assert sorted(headings) == sorted([rule.name for rule in RULES] + ["daemon-dead"])
