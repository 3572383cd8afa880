"""Redis behind Sentinel: the drain, the recorders and the service find the primary, also after a fail-over under load."""

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from usage_recorder import sentinel
from usage_recorder.async_recorder import AsyncRecorder
from usage_recorder.recorder import Recorder

from usage_pipeline.drain.rounds import DrainImpossible, drain_once, drain_until_empty
from usage_pipeline.settings import Settings, load_settings
from usage_pipeline.storage.quick_redis import QuickRedis
from usage_pipeline_tests.drain.odd_servers.sentinel_rig import Watched
from usage_pipeline_tests.rigs.waiting import wait_until

_KEYS = [f"key-{number}" for number in range(40)]


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    with Watched(tmp_path) as watched:
        yield watched


@pytest.fixture
def settings(database_url: str, watched: Watched) -> Settings:
    return load_settings(database_url=database_url, redis_url=watched.url, connect_timeout_seconds=2)


class LiveWriter:
    """Counts requests until it is told to stop, and notes what is surely written: what the replica, too, has confirmed."""

    def __init__(self, url: str) -> None:
        self.sent, self.sure = Counter[str](), Counter[str]()
        options = {"protocol": 2, "socket_timeout": 2, "socket_connect_timeout": 2, "retry": Retry(NoBackoff(), 0)}
        self._client = redis.Redis.from_pool(sentinel.pool(url, **options))
        self._should_stop = threading.Event()
        self.is_alone = False
        self._thread = threading.Thread(target=self._write)
        self._thread.start()

    def _write(self) -> None:
        while not self._should_stop.is_set():
            for key in _KEYS:
                # A connection each: WAIT speaks for what was written on its own.
                with suppress(redis.RedisError), self._client.client() as pinned:
                    self.sent[key] += 1
                    pinned.hincrby(f"apikey:{key}:metrics", "total_requests", 1)
                    # After the fail-over there is nobody else who could forget it.
                    if self.is_alone or pinned.wait(1, 1_000) >= 1:
                        self.sure[key] += 1

    def stop(self) -> None:
        self._should_stop.set()
        self._thread.join(60)
        self._client.close()


def _stored(postgres: psycopg.Connection) -> dict[str, int]:
    return dict(postgres.execute("select api_key_id, total_requests from usage.api_keys").fetchall())


def test_a_fail_over_in_the_middle_of_drains_and_writes_loses_and_doubles_nothing(
    watched: Watched, settings: Settings, postgres: psycopg.Connection
) -> None:
    writer = LiveWriter(watched.url)
    should_stop = threading.Event()
    said: list[str] = []

    def drain() -> None:
        while not should_stop.is_set():
            try:
                drain_once(settings)
            except DrainImpossible as impossible:
                said.append(str(impossible))

    drainer = threading.Thread(target=drain)
    drainer.start()
    try:
        wait_until(lambda: sum(_stored(postgres).values()) > 200, "some are stored", 60)
        watched.fail_over()
        writer.is_alone = True
        before = sum(writer.sure.values())
        wait_until(lambda: sum(writer.sure.values()) > before + 200, "the writer follows", 60)
        wait_until(lambda: sum(_stored(postgres).values()) > before, "the drain follows", 60)
    finally:
        writer.stop()
        should_stop.set()
        drainer.join(60)
    drain_until_empty(settings, should_stop=threading.Event())
    stored = _stored(postgres)
    # Sent and not confirmed: nobody knows. There are few of these, since each write waits for its confirmation.
    assert {key: (writer.sure[key], stored[key], writer.sent[key]) for key in _KEYS} == {
        key: (min(writer.sure[key], stored[key]), stored[key], max(writer.sent[key], stored[key])) for key in _KEYS
    }
    assert said, "the drain said that the primary was away"
    assert not [text for text in said if watched.password in text or "p%40ss" in text or "s&nt" in text]


def test_everybody_finds_the_primary_also_when_the_first_sentinel_is_dead(
    watched: Watched, settings: Settings, postgres: psycopg.Connection
) -> None:
    watched.end_sentinel(0)
    recorder = Recorder.connect(watched.url, timeout_seconds=10)
    assert recorder.record_api_key("key-1")

    async def record_and_read() -> None:
        other = AsyncRecorder.connect(watched.url, timeout_seconds=10)
        assert await other.record_api_key("key-1")
        await other.close()
        quick = QuickRedis.of(settings)
        assert await quick.ask(lambda client: client.hget("apikey:key-1:metrics", "total_requests")) == b"2"
        await quick.close()

    asyncio.run(record_and_read())
    with watched.client(watched.primary) as client:
        # What the replica confirms has all that came before.
        client.set("written", 1)
        assert client.wait(1, 5_000) == 1
    watched.fail_over()
    # Its connection is gone with the primary: what it cannot send at once is sent by itself.
    recorder.record_api_key("key-1")
    assert recorder.flush(60)
    recorder.close()
    drain_until_empty(settings, should_stop=threading.Event())
    assert _stored(postgres) == {"key-1": 3}


def test_a_name_that_the_sentinels_do_not_know_is_one_clear_line(watched: Watched, settings: Settings) -> None:
    wrong = load_settings(database_url=settings.database_url, redis_url=watched.url.replace("/mymaster/", "/nobody/"))
    with pytest.raises(DrainImpossible, match=r"Redis does not answer: No master found for 'nobody'") as raised:
        drain_once(wrong)
    assert "\n" not in str(raised.value)
