"""Redis behind a proxy of shards: the drain works one key at a time, recovers, and says what the proxy cannot promise."""

import threading
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import redis
from usage_recorder import keys as recorder_keys
from usage_recorder.recorder import Recorder

from usage_pipeline.access.tokens import create_token
from usage_pipeline.drain.rounds import drain_once, drain_until_empty
from usage_pipeline.settings import Settings, load_settings
from usage_pipeline_tests.drain.odd_servers.proxy_rig import keys_of, sharded
from usage_pipeline_tests.drain.rig import event_item
from usage_pipeline_tests.torture.servers import RedisServer

_KEYS = [f"key-{number}" for number in range(2_500)]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    running = RedisServer(tmp_path / "redis")
    running.start()
    yield running
    running.stop()


@pytest.fixture
def url(server: RedisServer) -> Iterator[str]:
    with sharded(server.port) as url:
        yield url


@pytest.fixture
def settings(database_url: str, url: str) -> Settings:
    return load_settings(database_url=database_url, redis_url=url)


def test_the_proxy_refuses_what_the_real_ones_refuse(url: str) -> None:
    assert keys_of([b"EVAL", b"return 1", b"2", b"a", b"b", b"c"]) == [b"a", b"b"]
    with redis.Redis.from_url(url) as client:
        assert client.info("cluster")["cluster_enabled"] == 0
        client.set("a", 1)
        with pytest.raises(redis.exceptions.ClusterCrossSlotError):
            client.unlink("a", "b")
        assert client.unlink("{a}1", "{a}2", "a") == 1


def test_all_families_are_drained_one_key_at_a_time(
    server: RedisServer, settings: Settings, postgres: psycopg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    # Tokens that are known have cached copies, which a drain deletes.
    tokens = [create_token(postgres, name, ("ingest",)).token_id for name in ("one", "two")]
    with server.client() as client:
        pipeline = client.pipeline(transaction=False)
        for key in _KEYS:
            pipeline.hincrby(recorder_keys.api_key_metrics(key), "total_requests", 3)
            # Half of them are announced, the others are found by a scan.
        pipeline.sadd(recorder_keys.touched("api_key"), *(recorder_keys.api_key_metrics(key) for key in _KEYS[::2]))
        pipeline.hincrby(recorder_keys.provider_metrics("key-1", "s3"), "upload_count", 2)
        for token in tokens:
            pipeline.set(recorder_keys.token_usage(token, "api-0"), '{"usageCount": 4, "instanceId": "api-0"}')
        pipeline.rpush(recorder_keys.EVENT_QUEUE, event_item(), event_item())
        pipeline.execute()
        # Its barrier is the age of a claim: what the first stores late, the later ones store.
        for _ in range(3):
            drain_until_empty(settings, should_stop=threading.Event())
        assert list(client.scan_iter("*:metrics*")) == []
    counts = """
        select
          (select count(*) from usage.api_keys where total_requests = 3),
          (select upload_count from usage.provider_usage),
          (select sum(usage_count) from usage.api_access_tokens),
          (select count(*) from raw.request_events),
          (select count(*) from ops.dead_letters)
    """
    assert postgres.execute(counts).fetchone() == (len(_KEYS), 2, 8, 2, 0)
    assert len([text for text in caplog.messages if "Redis is a proxy before shards" in text]) == 1


def test_nothing_is_stored_twice_by_drains_that_repeat(
    server: RedisServer, settings: Settings, postgres: psycopg.Connection
) -> None:
    with server.client() as client:
        for number in range(5):
            client.hincrby(recorder_keys.api_key_metrics(f"key-{number % 3}"), "total_requests", 1)
            drain_once(settings)
        for _ in range(3):
            drain_until_empty(settings, should_stop=threading.Event())
    assert postgres.execute("select sum(total_requests) from usage.api_keys").fetchone() == (5,)


def test_a_recorder_that_is_told_so_records_through_the_proxy_and_another_says_that_it_is_refused(
    url: str, server: RedisServer, settings: Settings, postgres: psycopg.Connection
) -> None:
    recorder = Recorder.connect(url, timeout_seconds=10, is_sharded=True)
    for _ in range(3):
        assert recorder.record_api_key("key-1")
        assert recorder.record_merchant("merchant-1", "orders")
    assert recorder.flush(20)
    assert dict(recorder.failures) == {}
    assert (recorder.pending("key-1") or {})["total_requests"] == 3
    recorder.close()
    unaware = Recorder.connect(url, timeout_seconds=10)
    assert not unaware.record_api_key("key-1")
    assert sum(dict(unaware.failures).values()) == 1
    unaware.close()
    for _ in range(2):
        drain_until_empty(settings, should_stop=threading.Event())
    assert postgres.execute("select api_key_id, total_requests from usage.api_keys").fetchall() == [("key-1", 3)]
