"""Real servers for every test that asks: started once a session, a fresh database for each test."""

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import redis
from psycopg import sql
from pydantic import AliasChoices

from usage_pipeline.local.postgres_server import create_database
from usage_pipeline.local.servers import LocalServers
from usage_pipeline.settings import Settings, load_settings

_TEMPLATE = "usage_template"


def _setting_variables() -> set[str]:
    names = {name.upper() for name in Settings.model_fields}
    for field in Settings.model_fields.values():
        if isinstance(field.validation_alias, AliasChoices):
            names.update(str(choice) for choice in field.validation_alias.choices)
    return names


@pytest.fixture(autouse=True)
def _no_settings_of_the_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer's DATABASE_URL must never be what a test empties."""
    unwanted = _setting_variables()
    for name in list(os.environ):
        if name.upper() in unwanted or name.startswith(("DAGSTER_", "PG")):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def servers() -> Iterator[LocalServers]:
    # Not pytest's own folder: it resets the permissions there, and as root PostgreSQL runs as another user.
    folder = Path(tempfile.mkdtemp(prefix="usage-pipeline-tests-"))
    try:
        with LocalServers(folder, durable=False) as running:
            yield running
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def migrated_template(servers: LocalServers) -> str:
    """The name of a migrated database that nobody is connected to, for cloning."""
    from usage_pipeline.storage.migrations import migrate

    create_database(servers.postgres, _TEMPLATE)
    migrate(servers.postgres.url(_TEMPLATE))
    return _TEMPLATE


@pytest.fixture
def database_url(servers: LocalServers, migrated_template: str) -> Iterator[str]:
    name = f"test_{uuid.uuid4().hex}"
    with psycopg.connect(servers.postgres.url("postgres"), autocommit=True) as connection:
        connection.execute(
            sql.SQL("create database {} template {} strategy file_copy").format(
                sql.Identifier(name), sql.Identifier(migrated_template)
            )
        )
        yield servers.postgres.url(name)
        connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


@pytest.fixture
def redis_url(servers: LocalServers) -> str:
    with redis.Redis.from_url(servers.redis_url) as client:
        client.flushall()
    return servers.redis_url


@pytest.fixture
def redis_client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url, decode_responses=False) as client:
        yield client


@pytest.fixture
def settings(database_url: str, redis_url: str) -> Settings:
    return load_settings(database_url=database_url, redis_url=redis_url)


@pytest.fixture
def postgres(database_url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection
