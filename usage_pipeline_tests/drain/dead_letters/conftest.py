"""The world of dead letters: the commands find the servers of the test in the environment."""

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import redis

from usage_pipeline.settings import Settings
from usage_pipeline_tests.drain.dead_letters.rig import World
from usage_pipeline_tests.rigs.alerts import Webhook, webhook


@pytest.fixture
def world(
    settings: Settings,
    redis_client: redis.Redis,
    postgres: psycopg.Connection,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> World:
    monkeypatch.setenv("DATABASE_URL", settings.database_url.get_secret_value())
    monkeypatch.setenv("REDIS_URL", settings.redis_dsn.get_secret_value())
    monkeypatch.chdir(tmp_path)
    return World(settings, redis_client, postgres, tmp_path / "landing")


@pytest.fixture
def hook() -> Iterator[Webhook]:
    with webhook() as running:
        yield running
