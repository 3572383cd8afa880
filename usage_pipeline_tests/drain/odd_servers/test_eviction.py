"""A Redis that deletes keys when it is full is told at once: in the log, by /healthz, by an alert that clears itself."""

import logging
import threading
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from usage_pipeline.alerting.evaluation import evaluate_pipeline
from usage_pipeline.alerting.facts import OrchestrationFacts
from usage_pipeline.drain.rounds import ALL_FAMILIES, drain_once, watch
from usage_pipeline.settings import Settings, load_settings
from usage_pipeline.storage.servers.eviction import eviction_of
from usage_pipeline_tests.rigs.service import serving
from usage_pipeline_tests.rigs.waiting import wait_until
from usage_pipeline_tests.torture.servers import RedisServer

_EVICTS = "Redis deletes keys when its memory is full (maxmemory-policy {}, maxmemory 64 MB)"
_OVER = "this is over: Redis deletes keys"
_QUIET = OrchestrationFacts((), (), ())


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    running = RedisServer(tmp_path / "redis")
    running.start()
    yield running
    running.stop()


@pytest.fixture
def settings(database_url: str, server: RedisServer) -> Settings:
    return load_settings(database_url=database_url, redis_url=server.url)


def evict(server: RedisServer, policy: str, most: str = "64mb") -> None:
    with server.client() as client:
        client.config_set("maxmemory", most)
        client.config_set("maxmemory-policy", policy)


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if "deletes" in record.getMessage() or "policy" in record.getMessage()
    ]


@pytest.mark.parametrize(
    ("policy", "most", "loses"),
    [
        ("allkeys-lru", "30000000", True),
        ("volatile-ttl", "30000000", True),
        ("noeviction", "30000000", False),
        # Without a limit nothing is ever deleted.
        ("allkeys-lru", "0", False),
    ],
)
def test_a_policy_deletes_only_below_a_limit(policy: str, most: str, loses: bool) -> None:
    found = eviction_of({"maxmemory_policy": policy, "maxmemory": most})
    assert (found.loses_keys, bool(found.warning)) == (loses, loses)


def test_drains_say_it_once_and_once_when_it_is_over(
    server: RedisServer, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    drain_once(settings)
    assert told(caplog) == []
    evict(server, "allkeys-lru")
    for _ in range(3):
        drain_once(settings)
    evict(server, "noeviction")
    for _ in range(2):
        drain_once(settings)
    said = [text.removeprefix("drain: ") for text in told(caplog)]
    assert len(said) == 2
    assert said[0].startswith(_EVICTS.format("allkeys-lru"))
    assert said[1].startswith(_OVER)


def test_each_start_of_a_worker_says_it_and_no_round_repeats_it(
    server: RedisServer, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    evict(server, "allkeys-lru")
    drain_once(settings)
    caplog.clear()
    rounds, should_stop = [], threading.Event()
    hasty = settings.model_copy(update={"metrics_sync_interval_ms": 10, "api_token_sync_interval_ms": 10})

    def on_round(_: object) -> None:
        rounds.append(1)
        if len(rounds) == 3:
            should_stop.set()

    watch(hasty, ALL_FAMILIES, should_stop=should_stop, on_round=on_round)
    assert len(told(caplog)) == 1


def test_an_alert_tells_it_and_clears_itself(
    server: RedisServer, settings: Settings, postgres: psycopg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    def is_open() -> list[tuple[str]]:
        evaluate_pipeline(settings, _QUIET, {})
        return postgres.execute("select rule, text from ops.alerts where cleared_at is null").fetchall()

    assert is_open() == []
    evict(server, "volatile-lfu")
    [(rule, text)] = is_open()
    assert rule == "redis-evicts"
    assert _EVICTS.format("volatile-lfu") in text
    # Its advice, followed literally.
    assert "`redis-cli config set maxmemory-policy noeviction`" in caplog.text
    with server.client() as client:
        client.execute_command("config", "set", "maxmemory-policy", "noeviction")
    assert is_open() == []


def test_the_service_says_it_at_its_start_and_by_healthz(
    server: RedisServer, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    evict(server, "allkeys-lru")
    with serving(settings) as service:
        wait_until(lambda: told(caplog), "the log says it, though nobody asked for /healthz", 20)
        assert service.client.get("/healthz").json()["redis_may_delete_counters"] is True
        evict(server, "noeviction")
        wait_until(
            lambda: service.client.get("/healthz").json()["redis_may_delete_counters"] is False,
            "/healthz has seen it",
            20,
        )
    assert len([text for text in told(caplog) if "allkeys-lru" in text]) == 1


def test_a_missing_barrier_is_said_once_too(
    server: RedisServer, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    with server.client() as client:
        client.config_set("appendonly", "no")
        client.config_set("save", "60 1000")
    for _ in range(3):
        drain_once(settings)
    assert len([text for text in caplog.messages if "Redis keeps only RDB snapshots" in text]) == 1
