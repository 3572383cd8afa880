"""Sensors and schedules, evaluated as the daemon does, on real servers."""

import json
import logging
from datetime import UTC, datetime, timedelta

import dagster as dg
import psycopg
import pytest
import redis

from usage_pipeline.definitions import build_definitions
from usage_pipeline.rollups.daily import DAILY_TABLES, replace_day
from usage_pipeline.settings import Settings
from usage_pipeline_tests.rigs.clock import days_ago, today


def tick(
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    name: str,
    cursor: str | None = None,
    log: logging.Handler | None = None,
) -> dg.SensorResult:
    sensor = definitions.resolve_sensor_def(name)
    context = dg.build_sensor_context(
        instance=instance,
        cursor=cursor,
        definitions=definitions,
        resources={"settings": definitions.get_repository_def().get_top_level_resources()["settings"]},
    )
    if log:
        context.log.addHandler(log)
    result = sensor(context)
    return result if isinstance(result, dg.SensorResult) else dg.SensorResult(skip_reason=result)


def later(cursor: str | None, seconds: float) -> str:
    """The cursor as if its report had been made so much earlier."""
    state = json.loads(cursor or "{}")
    return json.dumps({**state, "reported": state["reported"] - seconds})


def test_a_tick_drains_and_reports_at_most_once_a_minute_or_when_a_day_is_new(
    definitions: dg.Definitions, instance: dg.DagsterInstance, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    redis_client.hset("apikey:a:metrics", "total_requests", 3)
    first = tick(definitions, instance, "drain_metrics")
    assert [event.asset_key.to_user_string() for event in first.asset_events] == [
        "snapshots/api_key_deltas",
        "usage/api_keys",
    ]
    redis_client.hset("apikey:a:metrics", "total_requests", 4)
    second = tick(definitions, instance, "drain_metrics", first.cursor)
    assert second.asset_events == []
    assert postgres.execute("select total_requests from usage.api_keys").fetchall() == [(7,)]
    third = tick(definitions, instance, "drain_metrics", later(second.cursor, 61))
    assert third.asset_events[0].metadata["keys"].value >= 1
    at_ms = int((datetime.now(UTC) - timedelta(days=3)).timestamp() * 1000)
    redis_client.hset("apikey:a:metrics", mapping={"total_requests": 5, "last_used_at": at_ms})
    fourth = tick(definitions, instance, "drain_metrics", third.cursor)
    assert fourth.asset_events[0].metadata["keys"].value == 1
    assert days_ago(3).isoformat() in str(fourth.asset_events[0].metadata["days_touched"].value)


def test_each_cadence_has_a_sensor_with_its_families(
    definitions: dg.Definitions, instance: dg.DagsterInstance, redis_client: redis.Redis
) -> None:
    redis_client.set("token_usage:t:i", '{"usageCount": 5, "instanceId": "i"}')
    tick(definitions, instance, "drain_metrics")
    assert redis_client.exists("token_usage:t:i")
    tick(definitions, instance, "drain_tokens")
    assert not redis_client.exists("token_usage:t:i")
    sensors = {sensor.name: sensor for sensor in definitions.get_repository_def().sensor_defs}
    assert sensors["drain_metrics"].minimum_interval_seconds == 4
    assert sensors["drain_tokens"].minimum_interval_seconds == 59


def test_a_tick_stands_down_while_a_worker_holds_the_lock_and_reports_for_it(
    settings: Settings,
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    redis_client: redis.Redis,
    postgres: psycopg.Connection,
) -> None:
    from usage_pipeline.drain.rounds import drain_once

    before = tick(definitions, instance, "drain_metrics")
    redis_client.hset("apikey:a:metrics", "total_requests", 3)
    drain_once(settings)
    for family in ("api_key", "provider", "event"):
        postgres.execute("select pg_advisory_lock(hashtext('drain'), hashtext(%s))", (family,))
    redis_client.hset("apikey:b:metrics", "total_requests", 3)
    result = tick(definitions, instance, "drain_metrics", later(before.cursor, 61))
    assert redis_client.exists("apikey:b:metrics")
    assert "Another process drains api_key, provider, event now" in str(result.skip_reason)
    assert [event.asset_key.path[-1] for event in result.asset_events] == ["api_key_deltas", "api_keys"]


def test_a_tick_without_postgresql_claims_nothing_says_so_once_and_goes_on_by_itself(
    settings: Settings,
    instance: dg.DagsterInstance,
    definitions: dg.Definitions,
    redis_client: redis.Redis,
    postgres: psycopg.Connection,
    caplog: pytest.LogCaptureFixture,
) -> None:
    redis_client.hset("apikey:a:metrics", "total_requests", 3)
    away = settings.model_copy(
        update={"database_url": type(settings.database_url)("postgresql://postgres@127.0.0.1:1/none")}
    )
    without = build_definitions({"settings": away})
    first = tick(without, instance, "drain_metrics", log=caplog.handler)
    second = tick(without, instance, "drain_metrics", first.cursor, log=caplog.handler)
    assert "nothing is claimed" in str(first.skip_reason)
    assert "nothing is claimed" in str(second.skip_reason)
    assert "\n" not in str(first.skip_reason)
    assert sum("nothing is claimed" in record.getMessage() for record in caplog.records) == 1
    assert redis_client.keys("usage_pipeline:claim:*") == []
    tick(definitions, instance, "drain_metrics", second.cursor)
    assert postgres.execute("select total_requests from usage.api_keys").fetchall() == [(3,)]


def test_a_closed_day_that_changes_becomes_a_run_for_exactly_that_day(
    definitions: dg.Definitions, instance: dg.DagsterInstance, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    assert tick(definitions, instance, "late_days").run_requests == []
    at_ms = int((datetime.now(UTC) - timedelta(days=1)).timestamp() * 1000)
    redis_client.hset("apikey:a:metrics", mapping={"total_requests": 5, "last_used_at": at_ms})
    redis_client.hset("apikey:b:metrics", "total_requests", 6)
    tick(definitions, instance, "drain_metrics")
    [request] = tick(definitions, instance, "late_days").run_requests
    assert request.partition_key == days_ago(1).isoformat()
    assert request.asset_selection == [dg.AssetKey(["usage", "api_key_daily"])]
    assert request.tags["usage_pipeline/reason"] == "counts of this day were drained after it was made"
    [again] = tick(definitions, instance, "late_days").run_requests
    assert again.run_key == request.run_key
    replace_day(postgres, DAILY_TABLES[0], days_ago(1), today=today())
    assert tick(definitions, instance, "late_days").run_requests == []


@pytest.mark.parametrize("name", ["daily_tables_hourly", "merchant_usage_hourly"])
def test_schedules_ask_for_yesterday_and_today_as_of_the_scheduled_time(
    definitions: dg.Definitions, instance: dg.DagsterInstance, name: str
) -> None:
    keys = set()
    for hour in (0, 1):
        at = datetime(2026, 3, 1, hour, tzinfo=UTC)
        context = dg.build_schedule_context(
            instance=instance, scheduled_execution_time=at, repository_def=definitions.get_repository_def()
        )
        requests = definitions.resolve_schedule_def(name).evaluate_tick(context).run_requests
        assert [request.partition_key for request in requests] == ["2026-02-28", "2026-03-01"]
        keys |= {request.run_key for request in requests}
    assert len(keys) == 4
