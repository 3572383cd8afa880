"""The recorder's records on a real Redis, by both recorders; its failures are in test_failures.py."""

import asyncio
import inspect
import json
import re
import threading
from collections.abc import Callable, Coroutine, Iterator
from datetime import UTC, date, datetime
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
import redis
import redis.asyncio
from usage_recorder import keys as recorder_keys
from usage_recorder.async_recorder import AsyncRecorder
from usage_recorder.quota import QuotaDecision
from usage_recorder.recorder import Recorder

from usage_pipeline.drain.event_queue import parse_event
from usage_pipeline.drain.families import FAMILIES
from usage_pipeline.values import TimeWindow

NOW = datetime(2026, 3, 1, 12, 0, 0, 250_000, tzinfo=UTC)
NOW_MS = 1_772_366_400_250
TODAY = date(2026, 3, 1)
WEEK = 7 * 86_400
EVENT_ID = "0b8ff6b0-2f0c-4a51-8f37-1f0a6f6d1c11"
EVENT = {"user_id": "user-1", "provider": "openai", "event_type": "upload"}

Call = Callable[..., Any]


class Clock:
    def __init__(self) -> None:
        self.now = NOW.timestamp()

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["sync", "async"])
def call(request: pytest.FixtureRequest, redis_url: str, clock: Clock) -> Iterator[Call]:
    """Calls a method of one of the two recorders by name, so that every test holds for both."""
    kind = Recorder if request.param == "sync" else AsyncRecorder
    recorder = kind.connect(redis_url, clock=clock, timeout_seconds=5)
    with asyncio.Runner() as runner:

        async def awaited(coroutine: Coroutine[Any, Any, Any]) -> Any:
            return await coroutine

        def call(name: str, *args: Any, **kwargs: Any) -> Any:
            member = getattr(recorder, name)
            answer = member(*args, **kwargs) if callable(member) else member
            return runner.run(awaited(answer)) if inspect.iscoroutine(answer) else answer

        yield call
        call("close")


def counts_of(client: redis.Redis, key: bytes) -> dict[bytes, bytes]:
    """A hash; that of an odometer without the name of its life, which is random."""
    fields: dict[bytes, bytes] = client.hgetall(key)
    if key.startswith(b"usage_pipeline:recorded:"):
        assert re.fullmatch(rb"0-[0-9a-f]{12}", fields.pop(recorder_keys.ODOMETER_LIFE.encode()))
    return fields


def redis_contents(client: redis.Redis) -> dict[str, Any]:
    read = {
        b"hash": lambda key: counts_of(client, key),
        b"string": client.get,
        b"set": client.smembers,
        b"list": lambda key: client.lrange(key, 0, -1),
        b"zset": lambda key: client.zrange(key, 0, -1, withscores=True),
    }
    return {key.decode(): read[client.type(key)](key) for key in client.scan_iter() if not is_numbers(key)}


def is_numbers(key: bytes) -> bool:
    """Whether it is the hash of the last numbers of a recorder, which has a random name."""
    return key.startswith(b"usage_pipeline:recorder:")


def odometer(client: redis.Redis, family: str, day: date = TODAY) -> dict[str, int]:
    counts = counts_of(client, recorder_keys.recorded(family, day).encode())
    return {name.decode(): int(count) for name, count in counts.items()}


def test_an_api_key_is_written_as_the_api_servers_write_it(call: Call, redis_client: redis.Redis) -> None:
    assert call("record_api_key", "key-1", file_size=300, files_uploaded=2) is True
    assert call("record_api_key", "key-1", success=False) is True
    assert call("record_api_key", "key-1", requests=10, failed=4, at_ms=NOW_MS + 7) is True
    assert redis_contents(redis_client) == {
        "apikey:key-1:metrics": {
            b"total_requests": b"12",
            b"successful_requests": b"7",
            b"failed_requests": b"5",
            b"total_file_size": b"300",
            b"total_files_uploaded": b"2",
            b"last_used_at": b"1772366400257",
        },
        "usage_pipeline:touched:api_key": {b"apikey:key-1:metrics"},
        "usage_pipeline:quota_used:2026-03-01:key-1": b"12",
        "usage_pipeline:recorded:api_key:2026-03-01": {
            b"total_requests": b"12",
            b"successful_requests": b"7",
            b"failed_requests": b"5",
            b"total_file_size": b"300",
            b"total_files_uploaded": b"2",
            b"records": b"3",
        },
    }


def test_a_provider_is_written_as_the_api_servers_write_it(call: Call, redis_client: redis.Redis) -> None:
    assert call("record_provider", "key-1", "azure:eu", user_id="user-1", file_size=512) is True
    assert call("record_provider", "key-1", "azure:eu", user_id="user-1", uploads=4) is True
    assert redis_contents(redis_client) == {
        "provider:key-1:azure:eu:metrics": {
            b"user_id": b"user-1",
            b"provider": b"azure:eu",
            b"upload_count": b"5",
            b"total_file_size": b"512",
            b"last_used_at": b"%d" % NOW_MS,
        },
        "usage_pipeline:touched:provider": {b"provider:key-1:azure:eu:metrics"},
        "usage_pipeline:recorded:provider:2026-03-01": {
            b"upload_count": b"5",
            b"total_file_size": b"512",
            b"records": b"2",
        },
    }


def test_a_token_is_written_as_the_api_servers_write_it(call: Call, redis_client: redis.Redis) -> None:
    assert call("record_token", "token-1", "host:80") is True
    assert call("record_token", "token-1", "host:80", count=4, at_ms=NOW_MS - 1000) is True
    assert redis_contents(redis_client) == {
        "token_usage:token-1:host:80": (
            b'{"usageCount":5,"lastUsedAt":"2026-03-01T12:00:00.250Z","instanceId":"host:80"}'
        ),
        "usage_pipeline:touched:token": {b"token_usage:token-1:host:80"},
        "usage_pipeline:recorded:token:2026-03-01": {b"usage_count": b"5", b"records": b"2"},
    }


def test_a_merchant_is_written_as_the_api_servers_write_it(call: Call, redis_client: redis.Redis) -> None:
    assert call("record_merchant", "shop:1", "api_calls") is True
    assert call("record_merchant", "shop:1", "api_calls", value=41) is True
    assert redis_contents(redis_client) == {
        "usage:shop:1:2026-03-01:api_calls": b"42",
        "usage_pipeline:recorded:merchant:2026-03-01": {b"metric_value": b"42", b"records": b"2"},
    }


def test_an_event_is_written_as_the_api_servers_write_it(call: Call, redis_client: redis.Redis) -> None:
    assert call("record_event", "key-1", **EVENT, file_size=9, success=False, event_id=UUID(EVENT_ID)) == EVENT_ID
    new_id = call("record_event", "kéy-1", **EVENT)
    first, second = redis_client.lrange("event_queue", 0, -1)
    assert json.loads(first) == {
        "event_id": EVENT_ID,
        "api_key_id": "key-1",
        **EVENT,
        "file_size": 9,
        "status": "failure",
        "at": "2026-03-01T12:00:00.250Z",
    }
    assert UUID(json.loads(second)["event_id"]) == UUID(new_id)
    assert json.loads(second)["api_key_id"] == "kéy-1"
    assert redis_client.zrange("apikey:key-1:timeline", 0, -1, withscores=True) == [(EVENT_ID.encode(), NOW_MS)]
    assert odometer(redis_client, "event") == {"file_size": 9, "records": 2}


def test_every_counter_expires_in_seven_days(call: Call, redis_client: redis.Redis) -> None:
    record_one_of_each(call)
    ttls = {key.decode(): redis_client.ttl(key) for key in redis_client.scan_iter()}
    timeline = ttls.pop("apikey:key-1:timeline")
    assert 0 < timeline <= 60
    for key, ttl in ttls.items():
        if key == "event_queue" or key.startswith("usage_pipeline:touched:"):
            assert ttl == -1, key
        elif key.startswith("usage_pipeline:recorded:"):
            assert 35 * 86_400 - 60 < ttl <= 35 * 86_400, key
        elif key.startswith("usage_pipeline:quota_used:"):
            assert 2 * 86_400 - 60 < ttl <= 2 * 86_400, key
        else:
            assert WEEK - 60 < ttl <= WEEK, key


def record_one_of_each(call: Call) -> None:
    assert call("record_api_key", "key-1")
    assert call("record_provider", "key-1", "openai", user_id="user-1")
    assert call("record_token", "token-1", "host:80")
    assert call("record_merchant", "shop-1", "api_calls")
    assert call("record_event", "key-1", **EVENT)


def test_the_drain_reads_what_was_recorded(call: Call, redis_client: redis.Redis) -> None:
    record_one_of_each(call)
    window = TimeWindow.around(NOW_MS, 180)
    rows = {}
    for family in FAMILIES:
        (key,) = redis_client.smembers(recorder_keys.touched(family.name))
        value = redis_client.execute_command(family.read_command, key)
        if isinstance(value, dict):
            value = [part for pair in value.items() for part in pair]
        rows[family.name] = family.parse(key, value, window).row
    at = datetime(2026, 3, 1, 12, 0, 0, 250_000, tzinfo=UTC)
    assert rows == {
        "api_key": ("key-1", 1, 1, 0, 0, 0, at, None),
        "provider": ("key-1", "openai", "user-1", 1, 0, at, None),
        "token": ("token-1", "host:80", 1, at, None),
    }
    assert parse_event(redis_client.lindex("event_queue", 0), window).row[2:] == (
        *("key-1", "user-1", "openai", "upload", 0, "success", at, None),
    )


def test_both_recorders_do_the_same_in_one_script_after_its_number(call: Call, redis_client: redis.Redis) -> None:
    call("record_merchant", "shop-1", "orders")
    with redis_client.monitor() as monitor:
        call("record_api_key", "key-1")
        call("pending", "key-1")
        sent = []
        for entry in monitor.listen():
            if entry["command"].startswith("HMGET"):
                break
            sent.append((entry["client_type"], entry["command"]))
    [script, *commands] = [one for one in sent if not one[1].startswith("HELLO")]
    assert script[1].startswith("EVALSHA ")
    recorded = "usage_pipeline:recorded:api_key:2026-03-01"
    [numbers] = redis_client.scan_iter("usage_pipeline:recorder:*")
    [name] = redis_client.hmget(recorded, recorder_keys.ODOMETER_LIFE)
    [number] = redis_client.hmget(numbers, "0")
    assert re.fullmatch(rb"2\.\d{12}", number)
    assert commands == [
        ("lua", command)
        for command in (
            f"HGET {numbers.decode()} 0",
            f"HSET {numbers.decode()} 0 {number.decode()}",
            f"EXPIRE {numbers.decode()} {WEEK}",
            "HINCRBY apikey:key-1:metrics total_requests 1",
            "HINCRBY apikey:key-1:metrics successful_requests 1",
            "HGET apikey:key-1:metrics last_used_at",
            f"HSET apikey:key-1:metrics last_used_at {NOW_MS}",
            f"EXPIRE apikey:key-1:metrics {WEEK}",
            "SADD usage_pipeline:touched:api_key apikey:key-1:metrics",
            "INCRBY usage_pipeline:quota_used:2026-03-01:key-1 1",
            "EXPIRE usage_pipeline:quota_used:2026-03-01:key-1 172800",
            f"HINCRBY {recorded} total_requests 1",
            f"HINCRBY {recorded} successful_requests 1",
            f"HINCRBY {recorded} records 1",
            f"HSETNX {recorded} life {name.decode()}",
            f"EXPIRE {recorded} 3024000",
        )
    ]


@pytest.mark.parametrize(
    ("present", "expected"),
    [
        (NOW_MS + 60_000, NOW_MS + 60_000),
        (NOW_MS - 1, NOW_MS),
        # What no writer could mean, and would make the drain refuse the key.
        (NOW_MS + 30 * 86_400_000, NOW_MS),
        ("yesterday", NOW_MS),
        ("9" * 400, NOW_MS),
        ("inf", NOW_MS),
    ],
)
def test_an_older_record_does_not_lower_when_a_key_was_last_used(
    call: Call, redis_client: redis.Redis, present: int | str, expected: int
) -> None:
    redis_client.hset("apikey:key-1:metrics", "last_used_at", present)
    assert call("record_api_key", "key-1")
    assert redis_client.hget("apikey:key-1:metrics", "last_used_at") == b"%d" % expected


def test_the_day_is_that_of_the_record_in_the_time_zone(redis_client: redis.Redis, clock: Clock) -> None:
    recorder = Recorder(redis_client, clock=clock, timezone=ZoneInfo("Pacific/Kiritimati"))  # UTC+14
    recorder.record_merchant("shop-1", "api_calls")
    recorder.record_merchant("shop-1", "api_calls", at_ms=NOW_MS - 3 * 3_600_000)
    assert redis_client.get("usage:shop-1:2026-03-02:api_calls") == b"1"
    assert redis_client.get("usage:shop-1:2026-03-01:api_calls") == b"1"
    assert odometer(redis_client, "merchant", date(2026, 3, 2)) == {"metric_value": 1, "records": 1}


@pytest.mark.parametrize(
    ("present", "expected_count", "expected_at"),
    [
        ('{"usageCount":3,"lastUsedAt":"2026-03-01T12:00:00.251Z","instanceId":"i"}', 4, "2026-03-01T12:00:00.251Z"),
        ('{"usageCount":3,"lastUsedAt":"2026-03-01T12:00:00Z"}', 4, "2026-03-01T12:00:00.250Z"),
        ('{"usageCount":3,"lastUsedAt":"2026-03-01T14:00:00.000+02:00"}', 4, "2026-03-01T12:00:00.250Z"),
        ('{"usageCount":3,"lastUsedAt":"2026-03-01T11:59:00-00:02"}', 4, "2026-03-01T11:59:00-00:02"),
        ('{"usageCount":3,"lastUsedAt":"2025-12-31T23:59:59.999999Z"}', 4, "2026-03-01T12:00:00.250Z"),
        ('{"usageCount":3,"lastUsedAt":"2026-03-02T00:00:00.000000Z"}', 4, "2026-03-02T00:00:00.000000Z"),
        ('{"usageCount":3,"lastUsedAt":null,"instanceId":null}', 4, "2026-03-01T12:00:00.250Z"),
        ('{"usageCount":3,"lastUsedAt":"yesterday"}', 4, "2026-03-01T12:00:00.250Z"),
        ('{"usageCount":9007199254740990}', 9007199254740991, "2026-03-01T12:00:00.250Z"),
        ('{"usageCount":123456789012345}', 123456789012346, "2026-03-01T12:00:00.250Z"),
    ],
)
def test_a_foreign_token_counter_is_added_to_exactly(
    redis_client: redis.Redis, clock: Clock, present: str, expected_count: int, expected_at: str
) -> None:
    redis_client.set("token_usage:t:i", present, ex=120)
    assert Recorder(redis_client, clock=clock).record_token("t", "i")
    assert redis_client.get("token_usage:t:i") == (
        b'{"usageCount":%d,"lastUsedAt":"%b","instanceId":"i"}' % (expected_count, expected_at.encode())
    )
    assert redis_client.ttl("token_usage:t:i") > 120


def test_an_instance_id_of_any_characters_is_valid_json(redis_client: redis.Redis) -> None:
    instance = 'ho"st\\/\n\té:80'
    assert Recorder(redis_client).record_token("t", instance)
    assert json.loads(redis_client.get(recorder_keys.token_usage("t", instance)))["instanceId"] == instance


def test_tokens_recorded_while_the_drain_renames_are_neither_lost_nor_doubled(redis_url: str) -> None:
    threads, records = 6, 300
    recorder = Recorder.connect(redis_url, timeout_seconds=5)
    writers = [
        threading.Thread(target=lambda: [recorder.record_token("t", "i", count=2) for _ in range(records)])
        for _ in range(threads)
    ]
    for writer in writers:
        writer.start()
    drained = 0
    with redis.Redis.from_url(redis_url) as drain:
        is_last = False
        while not is_last:
            is_last = not any(writer.is_alive() for writer in writers)
            try:
                drain.rename("token_usage:t:i", "claimed")
            except redis.ResponseError:
                continue
            drained += json.loads(drain.getdel("claimed"))["usageCount"]
        assert drained == threads * records * 2
        assert recorder.dropped["token"] == 0
        day = next(iter(drain.scan_iter("usage_pipeline:recorded:token:*")))
        assert counts_of(drain, day) == {b"usage_count": b"%d" % drained, b"records": b"%d" % (threads * records)}


def test_pending_is_what_the_live_hash_holds(call: Call, redis_client: redis.Redis) -> None:
    zeros = dict.fromkeys(
        ("total_requests", "successful_requests", "failed_requests", "total_file_size", "total_files_uploaded"), 0
    )
    assert call("pending", "key-1") == zeros
    call("record_api_key", "key-1", requests=3, failed=1)
    assert call("pending", "key-1") == {
        **zeros,
        "total_requests": 3,
        "successful_requests": 2,
        "failed_requests": 1,
    }
    redis_client.rename("apikey:key-1:metrics", "claimed")
    assert call("pending", "key-1") == zeros


def test_the_daily_quota_survives_the_drain_and_ends_with_the_day(
    call: Call, redis_client: redis.Redis, clock: Clock
) -> None:
    redis_client.hset(recorder_keys.quota("key-1"), "requests_per_day", 5)
    assert call("check_quota", "key-1") == QuotaDecision(True, 5, None, True)
    call("record_api_key", "key-1", requests=5)
    redis_client.rename("apikey:key-1:metrics", "claimed")
    assert call("check_quota", "key-1") == QuotaDecision(False, 0, None, True)
    clock.now += 12 * 3600
    assert call("check_quota", "key-1") == QuotaDecision(True, 5, None, True)
    assert call("check_quota", "unlimited") == QuotaDecision(True, None, None, True)


def test_the_limit_per_minute_slides(call: Call, redis_client: redis.Redis, clock: Clock) -> None:
    redis_client.hset(recorder_keys.quota("key-1"), "requests_per_minute", 3)
    for _ in range(3):
        call("record_event", "key-1", **EVENT)
        clock.now += 10
    assert call("check_quota", "key-1") == QuotaDecision(False, None, 0, True)
    clock.now = NOW.timestamp() + 60
    assert call("check_quota", "key-1") == QuotaDecision(True, None, 1, True)
    clock.now += 10
    call("record_event", "key-1", **EVENT)
    assert redis_client.zcard("apikey:key-1:timeline") == 2
    assert call("check_quota", "key-1") == QuotaDecision(True, None, 1, True)


@pytest.mark.parametrize("kind", [Recorder, AsyncRecorder])
def test_a_time_zone_that_is_none_is_refused_at_once(kind: type[Recorder] | type[AsyncRecorder]) -> None:
    wrong: Any = "Europe/Vienna"
    with pytest.raises(ValueError, match=r"timezone: expected a time zone such as .*, came str"):
        kind.connect("redis://127.0.0.1:9", timezone=wrong)
