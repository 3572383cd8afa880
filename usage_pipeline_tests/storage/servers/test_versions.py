"""Servers that are older than those that we support are refused in one line, wherever something connects."""

import logging

import psycopg
import pytest
import redis

from usage_pipeline.drain.rounds import DrainImpossible, drain_once
from usage_pipeline.settings import Settings
from usage_pipeline.storage.migrations import migrate
from usage_pipeline.storage.postgres import PostgresUnavailable, connect, connect_async
from usage_pipeline.storage.servers import supported
from usage_pipeline.storage.servers.redis_facts import is_cluster_node, read_hello, read_info
from usage_pipeline.storage.servers.supported import is_untried_postgres, postgres_fault, redis_fault
from usage_pipeline.storage.servers.versions import redis_server
from usage_pipeline_tests.rigs.service import serving

_LINE = r"expected PostgreSQL 99 or newer, came \d+\.\d+; upgrade the server"


@pytest.mark.parametrize(
    ("version", "came"), [(90_624, "9.6.24"), (100_023, "10.23"), (130_014, "13.14"), (140_000, None), (190_001, None)]
)
def test_postgresql_14_is_the_oldest(version: int, came: str | None) -> None:
    expected = came and f"expected PostgreSQL 14 or newer, came {came}; upgrade the server (docs/operations.md)"
    assert postgres_fault(version) == expected
    assert is_untried_postgres(version) is (version >= 190_000)


@pytest.mark.parametrize(
    ("version", "is_refused"), [((6, 0, 16), True), ((5,), True), ((6, 2, 0), False), ((8, 2), False), ((), False)]
)
def test_redis_6_2_is_the_oldest(version: tuple[int, ...], is_refused: bool) -> None:
    assert (redis_fault(version) is not None) is is_refused


@pytest.fixture
def old_postgres(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supported, "OLDEST_POSTGRES", 99)


@pytest.mark.usefixtures("old_postgres")
async def test_an_old_postgresql_is_refused_wherever_something_connects(settings: Settings) -> None:
    with pytest.raises(PostgresUnavailable, match=f"^PostgreSQL: {_LINE}"):
        migrate(settings.database_url.get_secret_value())
    with pytest.raises(PostgresUnavailable, match=f"^PostgreSQL: {_LINE}"):
        connect(settings)
    with pytest.raises(DrainImpossible, match=f"^PostgreSQL: {_LINE}.*; nothing is claimed"):
        drain_once(settings)
    with pytest.raises(psycopg.OperationalError, match=f"^{_LINE}"):
        await connect_async(settings)


@pytest.mark.usefixtures("old_postgres")
def test_the_service_says_which_server_is_too_old(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    with serving(settings) as service:
        assert service.client.get("/healthz").json()["database"] == "down"
    assert "health: PostgreSQL is down: expected PostgreSQL 99 or newer, came" in caplog.text


def test_an_old_redis_is_refused_by_the_drain(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supported, "OLDEST_REDIS", (99,))
    with pytest.raises(DrainImpossible, match=r"^Redis: expected Redis 99 or newer, or Valkey, came Redis \d+\.\d+"):
        drain_once(settings)


def test_a_newer_postgresql_is_mentioned_by_migrate_and_works(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(supported, "NEWEST_POSTGRES", 13)
    assert migrate(settings.database_url.get_secret_value())
    assert len([text for text in caplog.messages if "newer than" in text]) == 1


def test_redis_tells_its_name_and_version(redis_client: redis.Redis) -> None:
    found, info = redis_server(redis_client), redis_client.info("server")
    assert found.name == ("Valkey" if "valkey_version" in info else "Redis")
    assert found.version == info.get("valkey_version", info["redis_version"])


def test_without_info_the_server_is_known_by_hello(redis_client: redis.Redis) -> None:
    redis_client.execute_command("ACL", "SETUSER", "few", "on", ">few", "~*", "+@all", "-@dangerous")
    place = redis_client.connection_pool.connection_kwargs
    with redis.Redis(place["host"], place["port"], username="few", password="few", protocol=2) as few:
        assert read_info(few, "server") == {}
        assert read_hello(few)["mode"] == "standalone"
        assert is_cluster_node(few) is False
        assert (redis_server(few).version or "")[:1].isdigit()
    redis_client.execute_command("ACL", "DELUSER", "few")
