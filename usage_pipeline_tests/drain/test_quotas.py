"""Publishing quotas from PostgreSQL to Redis, where the recorder checks them."""

import psycopg
import pytest
import redis
from usage_recorder import keys as recorder_keys
from usage_recorder.quota import QuotaDecision
from usage_recorder.recorder import Recorder

from usage_pipeline.drain.quotas import publish_quotas


def set_quota(postgres: psycopg.Connection, api_key_id: str, per_day: int | None, per_minute: int | None) -> None:
    postgres.execute(
        "insert into usage.api_key_quotas (api_key_id, requests_per_day, requests_per_minute) values (%s, %s, %s)"
        " on conflict (api_key_id) do update set requests_per_day = excluded.requests_per_day,"
        " requests_per_minute = excluded.requests_per_minute",
        (api_key_id, per_day, per_minute),
    )


def test_published_quotas_follow_the_table(postgres: psycopg.Connection, redis_client: redis.Redis) -> None:
    for api_key_id, per_day, per_minute in (
        ("both", 10, 2),
        ("day", 2**62, None),
        ("none", None, None),
        ("gone", 1, 1),
    ):
        set_quota(postgres, api_key_id, per_day, per_minute)
    for _ in range(2):
        assert publish_quotas(postgres, redis_client) == 4
        assert redis_client.hgetall(recorder_keys.quota("both")) == {
            b"requests_per_day": b"10",
            b"requests_per_minute": b"2",
        }
        assert redis_client.hgetall(recorder_keys.quota("day")) == {b"requests_per_day": b"%d" % 2**62}
        assert not redis_client.exists(recorder_keys.quota("none"))

    postgres.execute("delete from usage.api_key_quotas where api_key_id = 'gone'")
    set_quota(postgres, "both", None, 5)
    assert publish_quotas(postgres, redis_client) == 3
    assert not redis_client.exists(recorder_keys.quota("gone"))
    assert redis_client.hgetall(recorder_keys.quota("both")) == {b"requests_per_minute": b"5"}
    assert redis_client.smembers("usage_pipeline:quota_ids") == {b"both", b"day", b"none"}


def test_more_quotas_than_one_transaction_holds_are_all_published(
    postgres: psycopg.Connection, redis_client: redis.Redis
) -> None:
    postgres.execute(
        "insert into usage.api_key_quotas (api_key_id, requests_per_day)"
        " select 'key-' || n, n from generate_series(1, 2500) as n"
    )
    assert publish_quotas(postgres, redis_client) == 2500
    assert redis_client.hget(recorder_keys.quota("key-2500"), "requests_per_day") == b"2500"
    postgres.execute("delete from usage.api_key_quotas")
    assert publish_quotas(postgres, redis_client) == 0
    assert redis_client.keys("usage_pipeline:quota*") == []


def test_a_published_quota_is_what_the_recorder_checks(postgres: psycopg.Connection, redis_client: redis.Redis) -> None:
    set_quota(postgres, "key-1", 1, None)
    publish_quotas(postgres, redis_client)
    recorder = Recorder(redis_client)
    assert recorder.check_quota("key-1") == QuotaDecision(True, 1, None, True)
    recorder.record_api_key("key-1")
    assert recorder.check_quota("key-1") == QuotaDecision(False, 0, None, True)


@pytest.mark.parametrize("kind", ["text", "hash"])
def test_a_list_of_ids_of_another_type_is_replaced(
    postgres: psycopg.Connection, redis_client: redis.Redis, kind: str
) -> None:
    if kind == "text":
        redis_client.set("usage_pipeline:quota_ids", "x")
    else:
        redis_client.hset("usage_pipeline:quota_ids", "x", "y")
    postgres.execute("insert into usage.api_key_quotas (api_key_id, requests_per_day) values ('a', 5)")
    assert publish_quotas(postgres, redis_client) == 1
    assert redis_client.smembers("usage_pipeline:quota_ids") == {b"a"}
    assert redis_client.hgetall("usage_pipeline:quota:a") == {b"requests_per_day": b"5"}


def test_ids_in_the_list_that_are_no_text_are_removed(postgres: psycopg.Connection, redis_client: redis.Redis) -> None:
    redis_client.sadd("usage_pipeline:quota_ids", b"\xff")
    redis_client.hset(b"usage_pipeline:quota:\xff", "requests_per_day", "5")
    assert publish_quotas(postgres, redis_client) == 0
    assert redis_client.keys("usage_pipeline:quota*") == []
