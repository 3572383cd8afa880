"""The rows of the matrix: each version once, tests that exist, and servers that are the ones that were asked for."""

import os
from pathlib import Path

import psycopg
import pytest
import redis

from usage_pipeline.local.servers import postgres as postgres_server
from usage_pipeline.local.servers.redis import redis_executable
from usage_pipeline_tests.matrix.__main__ import ROWS, SMALL_TESTS, TESTS
from usage_pipeline_tests.rigs.places import PROJECT


def test_every_version_that_must_work_has_a_row() -> None:
    assert [postgres.name for postgres, _ in ROWS] == [f"postgresql-{major}" for major in range(14, 19)]
    kinds = {redis.name.partition(".")[0] for _, redis in ROWS}
    assert kinds >= {"redis-6", "redis-7", "redis-8"}
    assert any(kind.startswith("valkey") for kind in kinds)


@pytest.mark.parametrize("path", [*TESTS, *SMALL_TESTS])
def test_each_of_its_tests_is_there(path: str) -> None:
    assert (PROJECT / "usage_pipeline_tests" / path).exists()


def test_a_named_program_is_the_one_that_is_started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TEST_REDIS_SERVER", str(tmp_path / "redis-server"))
    assert redis_executable() == tmp_path / "redis-server"
    monkeypatch.setenv("TEST_POSTGRES_BIN", str(tmp_path / "nowhere" / "bin"))
    with pytest.raises(OSError, match="nowhere"):
        postgres_server.start_postgres(tmp_path / "data")


def test_the_tests_run_on_the_servers_that_were_asked_for(
    postgres: psycopg.Connection, redis_client: redis.Redis
) -> None:
    """In `make matrix` a row says which; elsewhere any will do."""
    wanted_postgres, wanted_redis = os.environ.get("TEST_POSTGRES_BIN", ""), os.environ.get("TEST_REDIS_SERVER", "")
    server = redis_client.info("server")
    is_valkey = server.get("server_name") == "valkey"
    name = f"valkey-{server['valkey_version']}" if is_valkey else f"redis-{server['redis_version']}"
    if "postgresql-" in wanted_postgres:
        assert f"postgresql-{postgres.info.server_version // 10_000}/" in wanted_postgres
    if "/redis-" in wanted_redis or "/valkey-" in wanted_redis:
        assert f"/{name.rpartition('.')[0]}/" in wanted_redis
