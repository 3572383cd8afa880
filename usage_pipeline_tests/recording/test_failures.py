"""The recorder when Redis is gone, stalled or refuses, when an argument is wrong, and on a Redis Cluster."""

import asyncio
import logging
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio
from usage_recorder import keys as recorder_keys
from usage_recorder.async_recorder import AsyncRecorder
from usage_recorder.delivery.wire import exchange
from usage_recorder.outage import FAILURES_OF_AN_OUTAGE, PROBE_SECONDS, SECONDS_OF_AN_OUTAGE, Outage
from usage_recorder.quota import UNKNOWN
from usage_recorder.recorder import Recorder

from usage_pipeline.local.servers.ports import first_free_port, free_port
from usage_pipeline.local.servers.redis import redis_executable
from usage_pipeline_tests.rigs.waiting import wait_until

EVENT = {"user_id": "user-1", "provider": "openai", "event_type": "upload"}
ONE_OF_EACH: dict[str, tuple[str, tuple[str, ...], dict[str, Any]]] = {
    "api_key": ("record_api_key", ("key-1",), {}),
    "provider": ("record_provider", ("key-1", "openai"), {"user_id": "user-1"}),
    "token": ("record_token", ("token-1", "host:80"), {}),
    "merchant": ("record_merchant", ("shop-1", "api_calls"), {}),
    "event": ("record_event", ("key-1",), EVENT),
}


class OwnRedis:
    """A server that a test may stop, stall and start again, on one port."""

    def __init__(self, folder: Path) -> None:
        # For the cluster test: its bus listens 10,000 above, and from 32,768 on the ports are those of outgoing connections.
        self.port = first_free_port(random.randrange(20_000, 22_000))
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._folder = folder
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str) -> None:
        arguments = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", *options]
        self.process = subprocess.Popen(
            [str(redis_executable()), *arguments], cwd=self._folder, stdout=subprocess.DEVNULL
        )
        with redis.Redis.from_url(self.url) as client:

            def answers() -> bool:
                with suppress(redis.ConnectionError):
                    return client.ping()
                return False

            wait_until(answers, "redis-server answers", 10)

    def stall(self) -> None:
        assert self.process
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self.process
        self.process.send_signal(signal.SIGCONT)

    def come_back(self) -> None:
        if self.process is None:
            self.start()
        self.resume()

    def stop(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[OwnRedis]:
    server = OwnRedis(tmp_path)
    server.start()
    yield server
    server.stop()


def record_all(recorder: Recorder) -> dict[str, bool | str | None]:
    return {family: getattr(recorder, name)(*args, **kwargs) for family, (name, args, kwargs) in ONE_OF_EACH.items()}


async def record_all_async(recorder: AsyncRecorder) -> dict[str, bool | str | None]:
    return {
        family: await getattr(recorder, name)(*args, **kwargs) for family, (name, args, kwargs) in ONE_OF_EACH.items()
    }


def written(url: str) -> dict[str, int]:
    """What the odometers of the families say that was written."""
    with redis.Redis.from_url(url) as client:
        return {
            key.decode().split(":")[2]: int(client.hget(key, "records") or 0)
            for key in client.scan_iter("usage_pipeline:recorded:*")
        }


@pytest.mark.parametrize("trouble", [OwnRedis.stop, OwnRedis.stall])
def test_without_redis_every_call_answers_in_bounded_time_and_is_kept(
    own_redis: OwnRedis, trouble: Callable[[OwnRedis], None]
) -> None:
    recorder = Recorder.connect(own_redis.url)
    assert all(record_all(recorder).values())
    trouble(own_redis)
    started = time.monotonic()
    assert all(record_all(recorder).values())
    assert recorder.check_quota("key-1") == UNKNOWN
    assert recorder.pending("key-1") is None
    assert time.monotonic() - started < 60
    assert recorder.kept == 5
    assert recorder.dropped == dict.fromkeys(ONE_OF_EACH, 0)
    assert recorder.failures == {(what, "unreachable"): 1 for what in ("quota", "pending")}
    own_redis.come_back()
    assert recorder.flush(30)
    assert recorder.kept == 0
    before = 0 if trouble is OwnRedis.stop else 1
    assert written(own_redis.url) == dict.fromkeys(ONE_OF_EACH, before + 1)
    recorder.close()


@pytest.mark.parametrize("trouble", [OwnRedis.stop, OwnRedis.stall])
async def test_without_redis_the_async_recorder_does_the_same(
    own_redis: OwnRedis, trouble: Callable[[OwnRedis], None]
) -> None:
    recorder = AsyncRecorder.connect(own_redis.url)
    assert all((await record_all_async(recorder)).values())
    trouble(own_redis)
    async with asyncio.timeout(60):
        assert all((await record_all_async(recorder)).values())
        assert await recorder.check_quota("key-1") == UNKNOWN
        assert await recorder.pending("key-1") is None
    assert recorder.dropped == dict.fromkeys(ONE_OF_EACH, 0)
    assert recorder.kept == 5
    own_redis.come_back()
    assert await recorder.flush(30)
    before = 0 if trouble is OwnRedis.stop else 1
    assert written(own_redis.url) == dict.fromkeys(ONE_OF_EACH, before + 1)
    await recorder.close()


def test_a_stall_makes_few_of_many_callers_wait_and_loses_none(own_redis: OwnRedis) -> None:
    recorder = Recorder.connect(own_redis.url)
    outcomes: list[bool] = []
    waited: list[float] = []
    are_connected = threading.Barrier(51)
    is_stalled = threading.Event()

    def call() -> None:
        outcomes.append(recorder.record_merchant("shop-1", "api_calls"))
        are_connected.wait(30)
        is_stalled.wait(30)
        for _ in range(200):
            began = time.monotonic()
            outcomes.append(recorder.record_merchant("shop-1", "api_calls"))
            waited.append(time.monotonic() - began)

    callers = [threading.Thread(target=call, daemon=True) for _ in range(50)]
    for caller in callers:
        caller.start()
    are_connected.wait(30)
    own_redis.stall()
    is_stalled.set()
    for caller in callers:
        caller.join(60)
        assert not caller.is_alive(), "a caller hangs"
    assert (len(outcomes), all(outcomes)) == (50 * 201, True)
    assert sum(one > 0.2 for one in waited) <= 50, "who comes after the first without an answer does not wait"
    own_redis.resume()
    assert recorder.flush(30)
    recorder.close()
    assert recorder.failures == {}
    assert written(own_redis.url) == {"merchant": len(outcomes)}


async def test_a_stall_makes_few_of_many_tasks_wait_and_loses_none(own_redis: OwnRedis) -> None:
    recorder = AsyncRecorder.connect(own_redis.url)

    async def call(times: int) -> list[bool]:
        return [await recorder.record_merchant("shop-1", "api_calls") for _ in range(times)]

    assert await call(1) == [True]
    own_redis.stall()
    async with asyncio.timeout(60):
        outcomes = [outcome for some in await asyncio.gather(*(call(50) for _ in range(200))) for outcome in some]
    assert all(outcomes)
    own_redis.resume()
    assert await recorder.flush(30)
    await recorder.close()
    assert recorder.failures == {}
    assert written(own_redis.url) == {"merchant": len(outcomes) + 1}


def test_more_callers_at_once_than_connections_wait_for_one(own_redis: OwnRedis) -> None:
    recorder = Recorder.connect(own_redis.url, timeout_seconds=20)
    start = threading.Barrier(300)
    outcomes: list[bool] = []

    def call() -> None:
        start.wait(30)
        outcomes.append(recorder.record_merchant("shop-1", "api_calls"))

    callers = [threading.Thread(target=call, daemon=True) for _ in range(300)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(60)
    recorder.close()
    assert (len(outcomes), all(outcomes), recorder.failures) == (300, True, {})

    async def call_at_once() -> tuple[list[bool], object]:
        async_recorder = AsyncRecorder.connect(own_redis.url, timeout_seconds=20)
        recorded = await asyncio.gather(*(async_recorder.record_merchant("shop-1", "api_calls") for _ in range(300)))
        await async_recorder.close()
        return recorded, async_recorder.failures

    assert asyncio.run(call_at_once()) == ([True] * 300, {})


def test_an_outage_begins_after_ten_calls_and_a_second_without_an_answer_and_one_answer_ends_it() -> None:
    now = [100.0]
    outage = Outage(clock=lambda: now[0])
    early = outage.begin()
    assert early is not None
    for _ in range(FAILURES_OF_AN_OUTAGE - 1):
        outage.failed(now[0])
    now[0] += SECONDS_OF_AN_OUTAGE
    assert outage.begin() is not None, "few calls may have lost their connection"
    outage.answered()
    for _ in range(FAILURES_OF_AN_OUTAGE):
        outage.failed(now[0])
    now[0] += SECONDS_OF_AN_OUTAGE / 2
    assert outage.begin() is not None, "a busy server may pause"
    outage.failed(now[0])
    now[0] += SECONDS_OF_AN_OUTAGE / 2
    assert outage.begin() is not None, "one call asks whether Redis is back"
    assert outage.begin() is None, "and only one"
    now[0] += PROBE_SECONDS
    assert outage.begin() is not None
    outage.answered()
    for _ in range(FAILURES_OF_AN_OUTAGE):
        outage.failed(early)
    now[0] += SECONDS_OF_AN_OUTAGE
    assert outage.begin() is not None
    assert outage.begin() is not None, "calls that began before the answer say nothing about now"


def test_a_restarted_redis_is_used_again_without_a_drop(own_redis: OwnRedis) -> None:
    recorder = Recorder.connect(own_redis.url, timeout_seconds=5)
    assert recorder.record_api_key("key-1")
    own_redis.stop()
    own_redis.start()
    assert recorder.record_api_key("key-1")
    assert (
        recorder.pending(
            "key-1",
        )["total_requests"]
        == 1
    )
    recorder.close()


def test_an_address_where_nobody_listens_is_logged_once_in_a_while(caplog: pytest.LogCaptureFixture) -> None:
    recorder = Recorder.connect(f"redis://:secret@127.0.0.1:{free_port()}/0")
    with caplog.at_level(logging.WARNING, logger="usage_recorder"):
        for _ in range(20):
            assert recorder.record_token("a-private-token", "host:80") is True
        assert recorder.kept == 20
        recorder.close(timeout_seconds=0)
    wait_until(lambda: recorder.kept == 0, "the last try has ended")
    assert recorder.dropped["token"] == 20
    assert recorder.failures == {("token", "unsent"): 20}
    assert len(caplog.records) <= 3
    assert "token: unsent" in caplog.text
    assert "secret" not in caplog.text
    assert "private" not in caplog.text
    assert recorder.record_token("token", "host:80") is False, "it is closed"


@pytest.mark.parametrize("family", ["api_key", "provider", "token", "merchant", "event"])
def test_a_write_that_redis_refuses_is_dropped_and_leaves_the_odometer(redis_client: redis.Redis, family: str) -> None:
    recorder = Recorder(redis_client)
    name, args, kwargs = ONE_OF_EACH[family]
    assert getattr(recorder, name)(*args, **kwargs)
    odometer = next(redis_client.scan_iter(f"usage_pipeline:recorded:{family}:*"))
    before = redis_client.hgetall(odometer)
    patterns = {
        "api_key": "apikey:*:metrics",
        "provider": "provider:*",
        "token": "token_usage:*",
        "merchant": "usage:*",
        "event": "event_queue",
    }
    counter = next(redis_client.scan_iter(patterns[family]))
    redis_client.delete(counter)
    redis_client.sadd(counter, "not a counter")
    assert not getattr(recorder, name)(*args, **kwargs)
    assert redis_client.smembers(counter) == {b"not a counter"}
    assert redis_client.hgetall(odometer) == before
    assert recorder.failures == {(family, "refused"): 1}


@pytest.mark.parametrize(
    "present",
    [
        "not json",
        "5",
        "[]",
        '{"usageCount":"5"}',
        '{"usageCount":-5}',
        '{"usageCount":1.5}',
        "{}",
        '{"usageCount":9007199254740991}',
        '{"usageCount":1,"instanceId":"of another token"}',
    ],
)
def test_a_token_value_that_cannot_be_added_to_is_left_for_the_drain(redis_client: redis.Redis, present: str) -> None:
    redis_client.set("token_usage:t:i", present)
    recorder = Recorder(redis_client)
    assert recorder.record_token("t", "i") is False
    assert recorder.dropped["token"] == 1
    assert redis_client.get("token_usage:t:i") == present.encode()
    assert redis_client.sismember(recorder_keys.touched("token"), "token_usage:t:i")


def test_a_field_that_would_overflow_is_left_out_of_the_odometer_alone(redis_client: redis.Redis) -> None:
    recorder = Recorder(redis_client)
    redis_client.hset("apikey:key-1:metrics", "total_file_size", 2**63 - 1)
    assert recorder.record_api_key("key-1", file_size=1) is False
    odometer = redis_client.hgetall(next(redis_client.scan_iter("usage_pipeline:recorded:*")))
    assert odometer.pop(b"life")
    assert odometer == {b"total_requests": b"1", b"successful_requests": b"1", b"records": b"1"}


def test_a_failed_announcement_is_no_dropped_record(redis_client: redis.Redis) -> None:
    redis_client.set(recorder_keys.touched("api_key"), "not a set")
    recorder = Recorder(redis_client)
    assert recorder.record_api_key("key-1") is True
    assert recorder.dropped["api_key"] == 0
    assert recorder.failures == {("api_key", "bookkeeping"): 1}


def test_a_refused_write_whose_answer_was_lost_is_refused_in_its_repetition_too(
    redis_client: redis.Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    redis_client.set("apikey:key-1:metrics", "no hash")
    recorder = Recorder.connect(redis_url, timeout_seconds=5)

    def lost(client: Any, sends: Any) -> None:
        exchange(client, sends)
        raise redis.TimeoutError

    with monkeypatch.context() as patched:
        patched.setattr("usage_recorder.recorder.exchange", lost)
        assert recorder.record_api_key("key-1"), "nobody knows yet"
    assert recorder.flush(30)
    assert recorder.failures == {("api_key", "refused"): 1}
    # The next number of the lane has nothing of it, and a repetition of that neither.
    redis_client.delete("apikey:key-1:metrics")
    with monkeypatch.context() as patched:
        patched.setattr("usage_recorder.recorder.exchange", lost)
        assert recorder.record_api_key("key-1")
    assert recorder.flush(30)
    recorder.close()
    assert recorder.failures == {("api_key", "refused"): 1}
    assert redis_client.hget("apikey:key-1:metrics", "total_requests") == b"1"


def test_what_a_redis_without_memory_refuses_is_kept_whole_until_it_has_memory(own_redis: OwnRedis) -> None:
    with redis.Redis.from_url(own_redis.url) as client:
        client.config_set("maxmemory", 1)
        recorder = Recorder.connect(own_redis.url, timeout_seconds=5)
        assert all(record_all(recorder).values())
        assert client.dbsize() == 0
        assert recorder.kept == 5
        client.config_set("maxmemory", 0)
        assert recorder.flush(30)
        recorder.close()
    assert recorder.failures == {}
    assert written(own_redis.url) == dict.fromkeys(ONE_OF_EACH, 1)


def test_what_a_replica_refuses_is_kept_until_it_is_a_primary(own_redis: OwnRedis) -> None:
    with redis.Redis.from_url(own_redis.url) as client:
        client.replicaof("127.0.0.1", str(free_port()))
        recorder = Recorder.connect(own_redis.url, timeout_seconds=5)
        assert all(record_all(recorder).values())
        assert recorder.kept == 5
        client.replicaof("NO", "ONE")
        assert recorder.flush(30)
        recorder.close()
    assert recorder.failures == {}
    assert written(own_redis.url) == dict.fromkeys(ONE_OF_EACH, 1)


BIGINT = 2**63
WRONG_ARGUMENTS: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
    ("record_api_key", (wrong_id,), {}) for wrong_id in ("", "x" * 201, "a\0b", "a\ud800", b"bytes", None, 7)
] + [
    ("record_api_key", ("key-1",), {"requests": -1}),
    ("record_api_key", ("key-1",), {"requests": BIGINT}),
    ("record_api_key", ("key-1",), {"requests": 1.5}),
    ("record_api_key", ("key-1",), {"requests": True}),
    ("record_api_key", ("key-1",), {"requests": 2, "failed": 3}),
    ("record_api_key", ("key-1",), {"file_size": -1}),
    ("record_api_key", ("key-1",), {"files_uploaded": BIGINT}),
    ("record_api_key", ("key-1",), {"at_ms": -1}),
    ("record_api_key", ("key-1",), {"at_ms": 10**18}),
    ("record_api_key", ("key-1",), {"at_ms": 1_000_000_000_000}),
    ("record_provider", ("key-1", ""), {"user_id": "user-1"}),
    ("record_provider", ("key-1", "openai"), {"user_id": "\udfff"}),
    ("record_provider", ("key-1", "openai"), {"user_id": "user-1", "uploads": -1}),
    ("record_token", ("token-1", ""), {}),
    ("record_token", ("token-1", "host:80"), {"count": 2**53}),
    ("record_merchant", ("shop-1", "api:calls"), {}),
    ("record_merchant", ("shop-1", "api_calls"), {"value": -1}),
    ("record_event", ("key-1",), {**EVENT, "event_id": "not a uuid"}),
    ("record_event", ("key-1",), {**EVENT, "event_id": 7}),
    ("record_event", ("key-1",), {**EVENT, "event_type": ""}),
    ("record_event", ("key-1",), {**EVENT, "file_size": "9"}),
]


@pytest.mark.parametrize(("name", "args", "kwargs"), WRONG_ARGUMENTS)
async def test_a_wrong_argument_is_dropped_with_its_reason_and_nothing_is_sent(
    redis_client: redis.Redis, redis_url: str, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    recorder, async_recorder = Recorder(redis_client), AsyncRecorder.connect(redis_url)
    assert not getattr(recorder, name)(*args, **kwargs)
    assert not await getattr(async_recorder, name)(*args, **kwargs)
    await async_recorder.close()
    expected = {(name.removeprefix("record_"), "wrong argument"): 1}
    assert recorder.failures == async_recorder.failures == expected
    assert sum(recorder.dropped.values()) == 1
    assert redis_client.dbsize() == 0


def test_the_largest_counts_that_the_tables_hold_are_recorded(redis_client: redis.Redis) -> None:
    recorder = Recorder(redis_client)
    largest = BIGINT - 1
    assert recorder.record_api_key("k" * 200, requests=largest, file_size=largest, files_uploaded=largest)
    assert recorder.pending(
        "k" * 200,
    ) == {
        "total_requests": largest,
        "successful_requests": largest,
        "failed_requests": 0,
        "total_file_size": largest,
        "total_files_uploaded": largest,
    }


@pytest.mark.parametrize("wrong_id", ["", "\ud800", None])
def test_reads_of_a_wrong_id_fail_open(redis_client: redis.Redis, wrong_id: Any) -> None:
    recorder = Recorder(redis_client)
    assert recorder.check_quota(wrong_id) == UNKNOWN
    assert recorder.pending(wrong_id) is None
    assert recorder.failures == {("quota", "wrong argument"): 1, ("pending", "wrong argument"): 1}


def test_reads_of_values_that_are_no_numbers_fail_open(redis_client: redis.Redis) -> None:
    recorder = Recorder(redis_client)
    redis_client.hset(recorder_keys.quota("key-1"), "requests_per_day", "many")
    redis_client.set(recorder_keys.api_key_metrics("key-1"), "not a hash")
    redis_client.set(recorder_keys.quota("key-2"), "not a hash")
    assert recorder.check_quota("key-1") == UNKNOWN
    assert recorder.check_quota("key-2") == UNKNOWN
    assert recorder.pending("key-1") is None
    assert recorder.failures == {("quota", "refused"): 2, ("pending", "refused"): 1}


async def test_a_redis_cluster_is_recorded_to_without_a_transaction(own_redis: OwnRedis) -> None:
    own_redis.stop()
    own_redis.start("--cluster-enabled", "yes")
    with redis.Redis.from_url(own_redis.url) as node:
        node.execute_command("CLUSTER ADDSLOTS", *range(16_384))
        wait_until(lambda: node.cluster("info")["cluster_state"] == "ok", "the cluster is ok", 10)
        with redis.RedisCluster(host="127.0.0.1", port=own_redis.port) as client:
            recorder = Recorder(client)
            assert all(record_all(recorder).values())
            assert recorder.check_quota("key-1").is_known
        async with redis.asyncio.RedisCluster(host="127.0.0.1", port=own_redis.port) as async_client:
            async_recorder = AsyncRecorder(async_client)
            assert all((await record_all_async(async_recorder)).values())
            assert (await async_recorder.pending("key-1") or {})["total_requests"] == 2
        assert recorder.failures == async_recorder.failures == {}
        assert node.llen("event_queue") == 2
