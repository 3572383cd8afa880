"""Merchant counters that fell, as an operator meets them: the alert's advice is followed to the letter."""

import re
import shlex
from datetime import UTC, datetime

import psycopg
import pytest
import redis

from usage_pipeline.alerting.facts import PipelineFacts
from usage_pipeline.alerting.reading import read_regressions
from usage_pipeline.alerting.rules import RULES
from usage_pipeline.merchants.aggregation import aggregate
from usage_pipeline.redis_keys import merchant_counter
from usage_pipeline.settings import Settings
from usage_pipeline.storage.sql import sql_folder
from usage_pipeline_tests.rigs.commands import Run


def advised(postgres: psycopg.Connection, settings: Settings) -> list[list[str]]:
    """The arguments of each command that the open alert names, in its order."""
    facts = PipelineFacts(regressions=read_regressions(postgres))
    [rule] = [rule for rule in RULES if rule.name == "counter-regression"]
    [alert] = rule.alerts(getattr(facts, rule.part), settings)
    return [shlex.split(command)[1:] for command in re.findall(r"`(usage-pipeline [^`]+)`", alert.remedy)]


@pytest.mark.parametrize(("counter", "right"), [(95, 95), (3, 103)])
@pytest.mark.parametrize("is_wrong_first", [False, True])
def test_whoever_follows_the_alert_gets_the_right_number_whichever_remedy_comes_first(
    settings: Settings,
    redis_client: redis.Redis,
    postgres: psycopg.Connection,
    run: Run,
    counter: int,
    right: int,
    is_wrong_first: bool,
) -> None:
    """95: somebody lowered it. 3: Redis lost it, and it began again."""
    day = datetime.now(UTC).date()
    key = merchant_counter("shop-1", day, "orders")
    for value in (100, counter):
        redis_client.set(key, value)
        aggregate(settings, [day])

    status, *remedies = advised(postgres, settings)
    assert [command[:2] for command in remedies] == [["counters", "accept-reset"], ["counters", "accept-correction"]]
    assert "shop-1" in run(*status).stdout
    is_lost = counter == 3
    wrong, right_one = remedies[::-1] if is_lost else remedies
    for command in (wrong, right_one, wrong) if is_wrong_first else (right_one, wrong):
        run(*command)

    [(stored,)] = postgres.execute("select metric_value from usage.merchant_usage").fetchall()
    assert stored == right
    assert read_regressions(postgres) == ()


def test_the_wrong_remedy_is_refused_in_words_and_by_its_status(
    settings: Settings, redis_client: redis.Redis, run: Run
) -> None:
    day = datetime.now(UTC).date()
    key = merchant_counter("shop-1", day, "orders")
    for value in (100, 95):
        redis_client.set(key, value)
        aggregate(settings, [day])
    refused = run("counters", "accept-reset")
    assert refused.returncode == 1
    assert "accept-correction" in "".join(refused.stdout.split())
    sure = run("counters", "accept-reset", "--sure", "--merchant", "shop-1")
    assert sure.returncode == 2
    assert "expected --merchant, --date and --metric with it" in sure.stderr
    assert "--reason" in run("counters", "accept-correction").stderr
    exact = ("--merchant", "shop-1", "--date", str(day), "--metric", "orders")
    assert run("counters", "accept-reset", "--sure", *exact).returncode == 0
    nothing = run("counters", "accept-reset")
    assert (nothing.returncode, nothing.stdout.strip()) == (0, "Nothing to accept: no open regression is meant.")


def test_an_upgrade_tells_settled_regressions_from_closed_ones_and_leaves_open_ones_open(
    postgres: psycopg.Connection,
) -> None:
    """The version before had no outcome: only whether the counter was lower when it was settled."""
    postgres.execute(
        "alter table ops.counter_regressions drop column outcome, drop column value_before, drop column value_after, "
        "drop column decided_by, drop column reason"
    )
    postgres.execute("alter table ops.reconciliation drop column forgotten, drop column counted_twice")
    postgres.execute("drop table ops.odometers")
    postgres.execute(
        """
        insert into ops.counter_regressions (merchant_id, date, metric_type, stored_value, counter_value, accepted_at)
        values ('folded', '2026-11-01', 'x', 100, 20, now()), ('back', '2026-11-01', 'x', 100, 100, now()),
               ('open', '2026-11-01', 'x', 100, 95, null)
        """
    )
    [migration] = (sql_folder() / "migrations" / "versions").glob("*_corrections_of_counters.sql")
    postgres.execute(migration.read_text(encoding="utf-8").encode())
    found = postgres.execute("select merchant_id, outcome, value_after from ops.counter_regressions").fetchall()
    assert sorted(found) == [("back", "closed", None), ("folded", "folded", None), ("open", None, None)]
