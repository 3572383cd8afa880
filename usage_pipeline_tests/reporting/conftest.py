"""One database with a known fortnight for all tests here, and a session of the analyst's role in it."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
import redis

from usage_pipeline.local.servers.both import LocalServers
from usage_pipeline.settings import load_settings
from usage_pipeline_tests.reporting.reporting_rig import TAG, Fortnight, store_fortnight


@pytest.fixture(scope="package")
def stored(servers: LocalServers, databases: Any) -> Iterator[tuple[str, Fortnight]]:
    name = databases.take()
    url = servers.postgres.url(name)
    with redis.Redis.from_url(servers.redis_url) as client:
        client.flushall()
    with psycopg.connect(url, autocommit=True) as connection:
        fortnight = store_fortnight(
            connection, load_settings(database_url=url, redis_url=servers.redis_url, rollup_tags=TAG)
        )
    yield url, fortnight
    databases.drop(name)


@pytest.fixture
def analyst(stored: tuple[str, Fortnight]) -> Iterator[psycopg.Connection]:
    with psycopg.connect(stored[0], autocommit=True) as connection:
        connection.execute("set role usage_analyst")
        yield connection


@pytest.fixture
def sent(stored: tuple[str, Fortnight]) -> Fortnight:
    return stored[1]
