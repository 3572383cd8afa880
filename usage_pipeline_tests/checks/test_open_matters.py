"""What waits for a person or a drain: told with keys and days while it is open, and not after that."""

import json
import re
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
import redis

from usage_pipeline.checks import open_matters
from usage_pipeline.drain.rounds import drain_once
from usage_pipeline.merchants.aggregation import aggregate
from usage_pipeline.settings import Settings
from usage_pipeline_tests.rigs.clock import days_ago, today


def ago(days: int) -> str:
    return days_ago(days).isoformat()


def test_open_dead_letters_are_told_with_key_and_reason(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    redis_client.hset("apikey:a:metrics", "total_requests", "many")
    drain_once(settings)
    [fault] = open_matters.dead_letter_faults(postgres, ["api_key"])
    assert "'apikey:a:metrics'" in fault
    assert "total_requests: expected an integer" in fault
    assert open_matters.dead_letter_faults(postgres, ["token", "event"]) == []
    postgres.execute("update ops.dead_letters set replayed_at = now()")
    assert open_matters.dead_letter_faults(postgres, ["api_key"]) == []


def test_open_regressions_are_told_with_merchant_and_day(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    for value in (9, 4):
        redis_client.set(f"usage:m:{today()}:orders", value)
        aggregate(settings, [today()])
    [fault] = open_matters.regression_faults(postgres)
    assert fault.startswith(f"{today()}, m orders: 9 stored, 4 in Redis")
    redis_client.set(f"usage:m:{today()}:orders", 10)
    aggregate(settings, [today()])
    postgres.execute("update ops.counter_regressions set accepted_at = now()")
    assert open_matters.regression_faults(postgres) == []


def test_days_that_were_not_aggregated_after_their_end_are_told(
    settings: Settings, postgres: psycopg.Connection
) -> None:
    def faults() -> list[str]:
        return open_matters.unaggregated_day_faults(postgres, today=today(), settings=settings)

    assert faults() == []
    aggregate(settings, [today()])
    assert faults() == [], "the days before the first aggregation are nobody's fault"
    postgres.execute("update ops.sync_batches set applied_at = applied_at - interval '3 days 12 hours'")
    missed = faults()
    assert [fault[:10] for fault in missed][-3:] == [ago(3), ago(2), ago(1)]
    assert f"`usage-pipeline aggregate --date {ago(1)}`" in missed[-1]
    aggregate(settings, [days_ago(2)], merchant_id="m")
    assert faults() == missed, "one merchant is not the day"
    aggregate(settings, [days_ago(days) for days in range(1, 5)])
    assert faults() == []
    postgres.execute("update ops.sync_batches set claimed_at = claimed_at - interval '1 day'")
    assert [fault[:10] for fault in faults()] == [ago(1)], "it was read before it ended"


def restore_idle(client: redis.Redis, key: str, seconds: int) -> None:
    client.hset(key, "total_requests", 1)
    client.sadd("usage_pipeline:touched:api_key", key)
    dump = client.dump(key)
    client.execute_command("RESTORE", key, 0, dump, "REPLACE", "IDLETIME", seconds)


def test_a_key_that_nobody_wrote_to_for_two_intervals_has_waited_too_long(
    settings: Settings, redis_client: redis.Redis
) -> None:
    restore_idle(redis_client, "apikey:young:metrics", 3)
    assert open_matters.backlog_faults(settings, "api_key") == []
    restore_idle(redis_client, "apikey:old:metrics", 60)
    [fault] = open_matters.backlog_faults(settings, "api_key")
    # Redis counts on while the test runs.
    assert re.fullmatch(r"'apikey:old:metrics': has waited for at least [67]\d s; a drain is due every 5 s", fault)
    slow = settings.model_copy(update={"metrics_sync_interval_ms": 60_000})
    assert open_matters.backlog_faults(slow, "api_key") == []
    drain_once(settings)
    assert open_matters.backlog_faults(settings, "api_key") == []


def test_a_batch_that_stays_open_and_an_item_at_the_head_of_the_queue_have_waited_too_long(
    settings: Settings, redis_client: redis.Redis
) -> None:
    redis_client.hset("usage_pipeline:open:token", "0000000000001-0000000000", "gone")
    [fault] = open_matters.backlog_faults(settings, "token")
    assert fault.startswith("1 batch is not finished, the oldest began ")
    now = datetime.now(UTC)
    redis_client.rpush("event_queue", json.dumps({"at": (now - timedelta(seconds=5)).isoformat()}))
    assert open_matters.backlog_faults(settings, "event", now=now) == []
    [fault] = open_matters.backlog_faults(settings, "event", now=now + timedelta(seconds=10))
    assert fault == "event_queue: has waited for at least 15 s; a drain is due every 5 s"


@pytest.mark.parametrize("item", ["junk", "[]", '{"at": 3}', '{"at": "soon"}'])
def test_an_item_that_cannot_be_read_is_the_drains_to_tell(
    settings: Settings, redis_client: redis.Redis, item: str
) -> None:
    redis_client.rpush("event_queue", item)
    assert open_matters.backlog_faults(settings, "event") == []
