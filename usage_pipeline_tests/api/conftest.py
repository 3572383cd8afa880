"""A running service for each test that asks, and one for all tests of a module that only read."""

from collections.abc import Iterator

import httpx
import psycopg
import pytest
import redis

from usage_pipeline.settings import Settings, load_settings
from usage_pipeline_tests.rigs.service import Service, Shared, new_token, serving


@pytest.fixture
def service(settings: Settings) -> Iterator[Service]:
    with serving(settings) as running:
        yield running


@pytest.fixture
def token(postgres: psycopg.Connection) -> str:
    return new_token(postgres)


@pytest.fixture
def ingest_client(service: Service, token: str) -> httpx.Client:
    return service.with_token(token)


@pytest.fixture(scope="module")
def shared(servers, databases) -> Iterator[Shared]:  # type: ignore[no-untyped-def]  # fixtures of the session
    """A service, a read token of it, and its database, for all tests of a module."""
    name = databases.take()
    url = servers.postgres.url(name)
    with (
        psycopg.connect(url, autocommit=True) as connection,
        redis.Redis.from_url(servers.redis_url) as cache,
    ):
        cache.flushall()
        settings = load_settings(database_url=url, redis_url=servers.redis_url, db_pool_size=8)
        with serving(settings) as running:
            token = new_token(connection, "read")
            client = running.with_token(token)
            yield Shared(running, client, token, connection, cache, settings)
    databases.drop(name)
