"""Evaluations on real servers: the facts are read as they are, and what follows is sent, once, and said to be over."""

import json
import logging
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
import redis
from psycopg.types.json import Jsonb
from pydantic import SecretStr
from typer.testing import CliRunner, Result
from usage_recorder.recorder import Recorder

from usage_pipeline.access.invitations import Person, invite, let_in_by_proxy
from usage_pipeline.access.tokens import create_token, revoke_token
from usage_pipeline.alerting.abnormal_usage import is_abnormal
from usage_pipeline.alerting.evaluation import RecordUnavailable, alert_now, alert_without_record, evaluate_pipeline
from usage_pipeline.alerting.facts import FailingTicks, OrchestrationFacts
from usage_pipeline.alerting.usage_hours import judged_hours
from usage_pipeline.cli import app
from usage_pipeline.commands.options import UsageError
from usage_pipeline.drain.rounds import drain_once
from usage_pipeline.merchants.aggregation import aggregate
from usage_pipeline.process import user_name
from usage_pipeline.reconciliation.comparison import reconcile
from usage_pipeline.rollups.daily import current_day
from usage_pipeline.settings import Settings
from usage_pipeline_tests.rigs.alerts import Webhook, alert, told_at, webhook
from usage_pipeline_tests.rigs.clock import today

NOTHING = OrchestrationFacts()
HOUR = timedelta(hours=1)


@pytest.fixture
def alerting(settings: Settings, hook: Webhook) -> Settings:
    return told_at(hook, settings)


def backdate(postgres: psycopg.Connection, seconds: float) -> None:
    """As if the last evaluation had been so much earlier."""
    [[details]] = postgres.execute("select details from ops.heartbeats where name = 'scheduler'").fetchall()
    details["waiting_since"] = {family: at - seconds for family, at in details["waiting_since"].items()}
    details["samples"] = [[at - seconds, *rest] for at, *rest in details["samples"]]
    postgres.execute("update ops.heartbeats set details = %s where name = 'scheduler'", (Jsonb(details),))


def open_rules(postgres: psycopg.Connection) -> list[str]:
    return [row[0] for row in postgres.execute("select rule from ops.alerts where cleared_at is null order by 1")]


def test_a_quiet_pipeline_raises_nothing_and_leaves_a_sign_of_life(
    alerting: Settings, hook: Webhook, postgres: psycopg.Connection
) -> None:
    found = evaluate_pipeline(alerting, NOTHING, {})
    assert (found.open, found.sent, hook.received) == (0, 0, [])
    assert postgres.execute("select clock_timestamp() - beaten_at < '1 min' from ops.heartbeats").fetchall() == [
        (True,)
    ]


def test_dead_letters_are_told_once_and_said_to_be_over_when_none_is_open(
    alerting: Settings, hook: Webhook, postgres: psycopg.Connection, redis_client: redis.Redis
) -> None:
    redis_client.hset("apikey:a:metrics", "total_requests", "many")
    drain_once(alerting)
    for _ in range(2):
        evaluate_pipeline(alerting, NOTHING, {})
    assert hook.titles == ["Dead letters of api_key: 1"]
    assert "many" in hook.received[0]["message"]
    postgres.execute("update ops.dead_letters set replayed_at = now()")
    for _ in range(2):
        evaluate_pipeline(alerting, NOTHING, {})
    assert hook.titles[1:] == ["Cleared: Dead letters of api_key: 1"]


def test_a_channel_that_is_new_hears_of_what_is_open_and_not_of_the_end_of_what_it_never_heard_of(
    settings: Settings, alerting: Settings, hook: Webhook, postgres: psycopg.Connection, redis_client: redis.Redis
) -> None:
    redis_client.hset("apikey:a:metrics", "total_requests", "many")
    drain_once(settings)
    for _ in range(2):
        evaluate_pipeline(settings, NOTHING, {})
    for _ in range(3):
        evaluate_pipeline(alerting, NOTHING, {})
    assert hook.titles == ["Dead letters of api_key: 1"]
    with webhook() as newer:
        urls = f"json://127.0.0.1:{hook.port}/,json://127.0.0.1:{newer.port}/"
        both = alerting.model_copy(update={"alert_urls": SecretStr(urls)})
        for _ in range(2):
            evaluate_pipeline(both, NOTHING, {})
        assert (len(hook.titles), newer.titles) == (1, ["Dead letters of api_key: 1"])
        postgres.execute("update ops.dead_letters set replayed_at = now()")
        for _ in range(2):
            evaluate_pipeline(both, NOTHING, {})
        assert hook.titles[1:] == newer.titles[1:] == ["Cleared: Dead letters of api_key: 1"]


def test_the_end_of_an_alert_is_told_to_nobody_who_never_heard_of_it(
    settings: Settings, alerting: Settings, hook: Webhook, postgres: psycopg.Connection, redis_client: redis.Redis
) -> None:
    redis_client.hset("apikey:a:metrics", "total_requests", "many")
    drain_once(settings)
    evaluate_pipeline(settings, NOTHING, {})
    postgres.execute("update ops.dead_letters set replayed_at = now()")
    for _ in range(2):
        evaluate_pipeline(alerting, NOTHING, {})
    assert hook.titles == []
    assert open_rules(postgres) == []


def test_counters_that_nobody_drains_are_told_and_a_drain_ends_it(
    alerting: Settings, hook: Webhook, postgres: psycopg.Connection
) -> None:
    with closing(Recorder.connect(alerting.redis_dsn.get_secret_value())) as recorder:
        recorder.record_api_key("a", success=True)
        evaluate_pipeline(alerting, NOTHING, {})
        backdate(postgres, 90)
        evaluate_pipeline(alerting, NOTHING, {})
        assert open_rules(postgres) == ["backlog-age"]
        drain_once(alerting)
        recorder.record_api_key("a", success=True)
        evaluate_pipeline(alerting, NOTHING, {})
    assert [title.partition(" have")[0] for title in hook.titles] == [
        "Counters of api_key",
        "Cleared: Counters of api_key",
    ]


def test_an_aggregation_that_finds_nothing_is_told(
    alerting: Settings, hook: Webhook, postgres: psycopg.Connection, redis_client: redis.Redis
) -> None:
    today = current_day(alerting.timezone)
    days = [today - timedelta(days=1), today]
    aggregate(alerting, days)
    evaluate_pipeline(alerting, NOTHING, {})
    assert hook.titles == ["The aggregation of merchant counters found nothing"]
    for day in days:
        redis_client.set(f"usage:m:{day}:orders", 5)
    aggregate(alerting, days)
    evaluate_pipeline(alerting, NOTHING, {})
    assert open_rules(postgres) == []
    for day in days:
        redis_client.set(f"usage:m:{day}:orders", 4)
    aggregate(alerting, days)
    evaluate_pipeline(alerting, NOTHING, {})
    assert open_rules(postgres) == ["counter-regression"]


def test_a_redis_that_grows_out_of_its_usual_size_is_told(
    alerting: Settings, postgres: psycopg.Connection, redis_client: redis.Redis
) -> None:
    evaluate_pipeline(alerting, NOTHING, {})
    [[details]] = postgres.execute("select details from ops.heartbeats where name = 'scheduler'").fetchall()
    at, memory, _ = details["samples"][0]
    details["samples"] = [[at - 60 * minute, memory, 10] for minute in range(20, 0, -1)]
    postgres.execute("update ops.heartbeats set details = %s where name = 'scheduler'", (Jsonb(details),))
    redis_client.eval("for i = 1, 50020 do redis.call('SET', 'other:' .. i, '') end", 0)
    evaluate_pipeline(alerting, NOTHING, {})
    assert open_rules(postgres) == ["redis-surge"]
    [[text]] = postgres.execute("select text from ops.alerts").fetchall()
    # With the sign of life about budgets.
    assert "50,021 keys, usually 10" in text


def test_recorded_usage_that_is_nowhere_is_told_until_it_is_found(
    alerting: Settings, postgres: psycopg.Connection, redis_client: redis.Redis
) -> None:
    with closing(Recorder.connect(alerting.redis_dsn.get_secret_value())) as recorder:
        recorder.record_token("t", "host:1", count=5)
    key = "token_usage:t:host:1"
    lost = redis_client.dump(key)
    redis_client.delete(key)
    reconcile(alerting, sleep=lambda _: None)
    evaluate_pipeline(alerting, NOTHING, {})
    assert open_rules(postgres) == ["missing-usage"]
    [[text]] = postgres.execute("select text from ops.alerts").fetchall()
    assert text.startswith(f"Of 5 usage_count that our recorder wrote for {today()}, 5 cannot be found")
    redis_client.restore(key, 0, lost)
    reconcile(alerting, sleep=lambda _: None)
    evaluate_pipeline(alerting, NOTHING, {})
    assert open_rules(postgres) == []


def test_what_a_reconciliation_long_ago_missed_is_not_told(alerting: Settings, postgres: psycopg.Connection) -> None:
    columns = (
        "family, usage_date, measure, recorded, stored, live, claimed, dead, duplicates, carried, difference, missing"
    )
    row = f"insert into ops.reconciliation ({columns}, missing_since, reconciled_at) values"
    postgres.execute(
        f"{row} ('token', '2026-01-01', 'usage_count', 5, 0, 0, 0, 0, 0, 0, 5, 5, now(), now() - interval '1 hour')"
    )
    evaluate_pipeline(alerting, NOTHING, {})
    assert open_rules(postgres) == ["missing-usage"], "the newest there is"
    postgres.execute(f"{row} ('token', '2026-01-02', 'usage_count', 5, 5, 0, 0, 0, 0, 0, 0, 0, null, now())")
    evaluate_pipeline(alerting, NOTHING, {})
    assert open_rules(postgres) == []


def test_a_token_that_ends_soon_is_told_once_and_is_over_when_it_is_replaced(
    alerting: Settings, hook: Webhook, postgres: psycopg.Connection
) -> None:
    now = datetime.now(UTC)
    day = timedelta(days=1)
    made = {
        name: create_token(postgres, name, ["read"], expires_at=ends).token_prefix
        for name, ends in {
            "soon": now + 13 * day,
            "other": now + 12 * day,
            "later": now + 15 * day,
            "never": None,
            "hours": now + day / 2,
            "short": now + 3 * day,
            "revoked": now + day,
            "ended": now + day,
        }.items()
    }
    # People are let in for as long as was said.
    person = Person("person", expires_at=now + 13 * day)
    invite(postgres, person)
    let_in_by_proxy(postgres, replace(person, name="proxied"))
    postgres.execute("update usage.api_access_tokens set created_at = now() - interval '60 days' where name <> 'hours'")
    postgres.execute("update usage.api_access_tokens set created_at = now() - interval '5 days' where name = 'short'")
    postgres.execute("update usage.api_access_tokens set expires_at = now() where name = 'ended'")
    revoke_token(postgres, made["revoked"])
    for _ in range(2):
        evaluate_pipeline(alerting, NOTHING, {})
    assert sorted(title.split()[2] for title in hook.titles) == [
        "other",
        "soon",
    ]  # in the order of their random prefixes
    revoke_token(postgres, made["soon"])
    postgres.execute("update usage.api_access_tokens set expires_at = now() + interval '1 year' where name = 'other'")
    for _ in range(2):
        evaluate_pipeline(alerting, NOTHING, {})
    assert sorted(title.split()[3] for title in hook.titles[2:]) == ["other", "soon"]
    assert all(title.startswith("Cleared: ") for title in hook.titles[2:])
    assert open_rules(postgres) == []


def test_uncertain_batches_of_the_last_day_are_told(alerting: Settings, postgres: psycopg.Connection) -> None:
    columns = "batch_id, family, claimed_at, applied_at, keys, redis_server, is_uncertain, drained_by"
    batch = f"insert into ops.sync_batches ({columns})"
    postgres.execute(f"{batch} values ('1-a', 'token', now(), now() - interval '25 hours', 9, 'r', true, 'd')")
    evaluate_pipeline(alerting, NOTHING, {})
    assert open_rules(postgres) == []
    postgres.execute(f"{batch} values ('1-b', 'token', now(), now(), 7, 'r', true, 'd')")
    evaluate_pipeline(alerting, NOTHING, {})
    assert postgres.execute("select rule, text like '1 batch with 7 keys%%' from ops.alerts").fetchall() == [
        ("uncertain-batches", True)
    ]


def test_foreign_token_keys_that_were_about_to_expire_are_told(
    alerting: Settings, postgres: psycopg.Connection, redis_client: redis.Redis
) -> None:
    redis_client.set("token_usage:t:fresh", '{"usageCount": 5, "instanceId": "fresh"}', ex=120)
    drain_once(alerting)
    evaluate_pipeline(alerting, NOTHING, {})
    assert open_rules(postgres) == []
    redis_client.set("token_usage:t:fresh", '{"usageCount": 5, "instanceId": "fresh"}', ex=120)
    redis_client.set("token_usage:t:old", '{"usageCount": 5, "instanceId": "old"}', ex=20)
    drain_once(alerting)
    evaluate_pipeline(alerting, NOTHING, {})
    assert open_rules(postgres) == ["expiring-token-keys"]
    [[text]] = postgres.execute("select text from ops.alerts").fetchall()
    assert text.startswith("A drain looked at 2 token keys: 1 had")
    postgres.execute("update ops.heartbeats set beaten_at = now() - interval '11 min' where name = 'token_ttls'")
    evaluate_pipeline(alerting, NOTHING, {})
    assert open_rules(postgres) == []


def write_hours(postgres: psycopg.Connection, family: str, name: str, uses: dict[datetime, int]) -> None:
    for hour, count in uses.items():
        postgres.execute("insert into ops.usage_hours values (%s, %s, %s, %s)", (family, name, hour, count))


def test_a_token_used_far_more_than_ever_is_told_after_the_hour_and_over_with_the_next(
    alerting: Settings, hook: Webhook, postgres: psycopg.Connection, redis_client: redis.Redis
) -> None:
    now = datetime.now(UTC)
    hour = (now - timedelta(minutes=5)).replace(minute=0, second=0, microsecond=0) - HOUR
    past = {hour - number * HOUR: 40 + number % 3 for number in range(1, 100)}
    write_hours(postgres, "token", "leaked", past)
    write_hours(postgres, "api_key", "steady", past)
    at = (hour + timedelta(minutes=30)).isoformat()
    for instance, uses in (("a", 4_000), ("b", 1_000)):
        redis_client.set(
            f"token_usage:leaked:{instance}",
            f'{{"usageCount": {uses}, "lastUsedAt": "{at}", "instanceId": "{instance}"}}',
        )
    last_used = int((hour + timedelta(minutes=59)).timestamp() * 1000)
    redis_client.hset("apikey:steady:metrics", mapping={"total_requests": 45, "last_used_at": last_used})
    drain_once(alerting)
    evaluate_pipeline(alerting, NOTHING, {})
    assert hook.titles == ["API token leaked is used far more than usual"]
    assert "5,000 uses" in hook.received[0]["message"]
    stored = "select family, id, uses from ops.usage_hours where hour_start = %s order by 1"
    assert postgres.execute(stored, (hour,)).fetchall() == [("api_key", "steady", 45), ("token", "leaked", 5_000)]
    evaluate_pipeline(alerting, NOTHING, {})
    assert open_rules(postgres) == ["abnormal-usage"], "the hour is judged once, and the alert lasts until the next"
    # As if the hour that was judged had been the one before.
    [[details]] = postgres.execute("select details from ops.heartbeats where name = 'scheduler'").fetchall()
    details["judged_hour"] = (hour - HOUR).isoformat()
    postgres.execute("update ops.heartbeats set details = %s where name = 'scheduler'", (Jsonb(details),))
    postgres.execute("delete from raw.token_deltas")
    postgres.execute("delete from ops.usage_hours where hour_start = %s and family = 'token'", (hour,))
    evaluate_pipeline(alerting, NOTHING, {})
    assert open_rules(postgres) == []


def test_a_leak_that_goes_on_is_not_over_because_it_entered_its_own_history(
    alerting: Settings, postgres: psycopg.Connection
) -> None:
    begun = datetime(2026, 3, 10, tzinfo=UTC)
    write_hours(postgres, "token", "leaked", {begun - number * HOUR: 10 for number in range(1, 61)})
    for number in range(72):
        hour = begun + number * HOUR
        write_hours(postgres, "token", "leaked", {hour: 10_000})
        [judged] = judged_hours(postgres, alerting, [hour])
        assert is_abnormal(judged, alerting), f"hour {number}"
    write_hours(postgres, "token", "leaked", {begun + 72 * HOUR: 12, begun + 73 * HOUR: 10_000})
    assert judged_hours(postgres, alerting, [begun + 72 * HOUR]) == (), "it is not even busy"
    [judged] = judged_hours(postgres, alerting, [begun + 73 * HOUR])
    assert is_abnormal(judged, alerting), "it began again"
    # The history ends some day. Then what goes on is what is usual.
    assert len(judged.history) == 61


def test_an_hour_that_ended_while_alerts_were_off_is_judged(
    alerting: Settings, hook: Webhook, postgres: psycopg.Connection, redis_client: redis.Redis
) -> None:
    newest = (datetime.now(UTC) - timedelta(minutes=5)).replace(minute=0, second=0, microsecond=0) - HOUR
    leaked_at = newest - 2 * HOUR
    write_hours(postgres, "token", "leaked", {leaked_at - number * HOUR: 40 + number % 3 for number in range(1, 100)})
    for hour, uses in ((leaked_at, 5_000), (leaked_at + HOUR, 9_000), (newest, 41)):
        redis_client.set(
            f"token_usage:leaked:{uses}",
            f'{{"usageCount": {uses}, "lastUsedAt": "{hour.isoformat()}", "instanceId": "{uses}"}}',
        )
    drain_once(alerting)
    evaluate_pipeline(alerting, NOTHING, {})
    assert hook.titles == []
    [[details]] = postgres.execute("select details from ops.heartbeats where name = 'scheduler'").fetchall()
    assert details["judged_hour"] == newest.isoformat()
    for hour in (leaked_at - HOUR, newest - HOUR):
        details["judged_hour"] = hour.isoformat()
        postgres.execute("update ops.heartbeats set details = %s where name = 'scheduler'", (Jsonb(details),))
        evaluate_pipeline(alerting, NOTHING, {})
    told = "API token leaked is used far more than usual"
    assert hook.titles == [told, f"Cleared: {told}"]
    # The hour that is furthest from the usual.
    assert "9,000 uses" in hook.received[0]["message"]


def test_a_webhook_that_fails_is_tried_again_by_a_later_evaluation(
    alerting: Settings, hook: Webhook, postgres: psycopg.Connection
) -> None:
    hook.status = 503
    alert_now(alerting, alert())
    hook.status = 200
    again = OrchestrationFacts(ticks=(FailingTicks("late_days", 3, "why", False),))
    evaluate_pipeline(alerting, again, {})
    # What is new is tried at once, and the channel takes it. So it also hears of what is over meanwhile.
    assert hook.titles == ["late_days failed 3 times in a row", "Cleared: Title of a"]
    assert "You were not told while it lasted" in hook.received[1]["message"]


def test_without_postgresql_failing_drains_are_told_once_noted_later_and_said_to_be_over(
    alerting: Settings, hook: Webhook, postgres: psycopg.Connection
) -> None:
    away = alerting.model_copy(
        update={"database_url": type(alerting.database_url)("postgresql://u:hunter2@127.0.0.1:1/x")}
    )
    failing = OrchestrationFacts(ticks=(FailingTicks("drain_metrics", 3, "PostgreSQL does not answer", True),))
    with pytest.raises(RecordUnavailable, match="not noted") as problem:
        evaluate_pipeline(away, failing, {})
    assert "hunter2" not in str(problem.value)
    kept = alert_without_record(away, failing, {})
    assert alert_without_record(away, failing, kept) == kept
    assert hook.titles == ["drain_metrics failed 3 times in a row"]
    evaluate_pipeline(alerting, failing, kept)
    assert len(hook.titles) == 1
    evaluate_pipeline(alerting, NOTHING, {})
    assert hook.titles[1:] == ["Cleared: drain_metrics failed 3 times in a row"]


def test_without_redis_what_only_redis_knows_stays_as_it_is(
    alerting: Settings, postgres: psycopg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(Recorder.connect(alerting.redis_dsn.get_secret_value())) as recorder:
        recorder.record_api_key("a", success=True)
    evaluate_pipeline(alerting, NOTHING, {})
    backdate(postgres, 90)
    evaluate_pipeline(alerting, NOTHING, {})
    away = alerting.model_copy(update={"redis_url": type(alerting.database_url)("redis://:hunter2@127.0.0.1:1")})
    with caplog.at_level(logging.INFO):
        evaluate_pipeline(away, NOTHING, {})
    assert open_rules(postgres) == ["backlog-age"]
    assert "Redis does not answer" in caplog.text
    assert "hunter2" not in caplog.text


@pytest.mark.parametrize(
    ("breakage", "part"),
    [
        ("alter table ops.odometers rename to hidden", "fallen_odometers"),
        ("alter table ops.reconciliation rename to hidden", "missing_usage"),
        ("alter table ops.counter_regressions rename to hidden", "regressions"),
        ("alter table ops.odometers add check (counted <> 3)", "odometers"),
        (
            """insert into ops.heartbeats (name, details) values ('scheduler', '{"judged_hour": "noon"}')""",
            None,
        ),
        ("insert into ops.heartbeats (name, details) values ('scheduler', '{\"samples\": 5}')", None),
    ],
)
def test_one_part_that_cannot_be_read_is_told_and_silences_no_other(
    alerting: Settings, postgres: psycopg.Connection, redis_client: redis.Redis, breakage: str, part: str | None
) -> None:
    recorder = Recorder(redis_client)
    for _ in range(3):
        recorder.record_token("t", "i")
    redis_client.hset("apikey:a:metrics", "total_requests", "many")
    drain_once(alerting)
    postgres.execute(breakage.encode())
    for _ in range(2):
        evaluate_pipeline(alerting, NOTHING, {})
    assert "dead-letters" in open_rules(postgres)
    told = postgres.execute("select dedupe_key from ops.alerts where rule = 'facts-unreadable'").fetchall()
    assert (f"facts-unreadable:{part}",) in told if part else told == []
    assert postgres.execute("select clock_timestamp() - beaten_at < '1 min' from ops.heartbeats").fetchall() == [
        (True,)
    ]


@pytest.fixture
def here(alerting: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """For commands, which read the environment."""
    monkeypatch.setenv("DATABASE_URL", alerting.database_url.get_secret_value())
    monkeypatch.setenv("COLUMNS", "80")
    return alerting


def command(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["alerts", *arguments])


def test_the_command_lists_what_is_open_with_keys_that_can_be_copied_at_80_columns(here: Settings) -> None:
    key = "very-long-" * 12
    alert_now(here, alert(key))
    document: dict[str, Any] = json.loads(command("--json").stdout)
    assert [(one["rule"], one["title"]) for one in document["alerts"]] == [("failed-run", f"Title of {key}")]
    said = command().stdout
    assert "1 open alert\n" in said
    assert f"Key: failed-run:{key}\n" in said
    assert f"Remedy of {key}" in said


def test_commands_take_alerts_on_and_make_them_silent_and_say_who_and_when(here: Settings) -> None:
    for key in "ab":
        alert_now(here, alert(key))
    assert "failed-run:a is acknowledged." in command("ack", "failed-run:a").stdout
    number = json.loads(command("--json").stdout)["alerts"][1]["alert_id"]
    assert json.loads(command("snooze", str(number), "--for", "2h", "--json").stdout) == {
        "success": True,
        "snoozed": [str(number)],
        "not_open": [],
    }
    first, second = json.loads(command("--json").stdout)["alerts"]
    assert first["acknowledged_by"] == second["snoozed_by"] == user_name()
    assert (first["acknowledged_at"] is None, second["is_snoozed"]) == (False, True)
    assert f"acknowledged by {user_name()}" in " ".join(command().stdout.split()).replace("│ ", "")


@pytest.mark.parametrize("arguments", [["ack"], ["snooze", "--for", "2h"]])
def test_a_key_that_is_not_open_is_one_line_and_status_1_and_the_others_are_done(
    here: Settings, arguments: list[str]
) -> None:
    alert_now(here, alert("a"))
    done = command(*arguments, "failed-run:a", "nothing", "99999999999999999999999", "\ud800")
    assert done.exit_code == 1
    assert done.stderr.count("expected the number or key of an open alert") == 3
    assert json.loads(command("--json").stdout)["alerts"][0]["acknowledged_at" if len(arguments) == 1 else "snoozed_at"]


@pytest.mark.parametrize("span", ["", "2", "0h", "-1h", "2 h", "31d", "9999999h", "2w", "١h", "1.5h"])
def test_a_time_that_is_none_is_refused(here: Settings, span: str) -> None:
    found = command("snooze", "1", f"--for={span}")
    assert isinstance(found.exception, UsageError)
    assert "expected a time such as 30m" in str(found.exception)
