"""Connections to the servers of a running system: a file of tests says by its fixture `system` what runs."""

from collections.abc import Iterator

import psycopg
import pytest
import redis

from usage_pipeline_tests.end_to_end.rigs.dagster_system import DagsterSystem


@pytest.fixture
def postgres(system: DagsterSystem) -> Iterator[psycopg.Connection]:
    with system.postgres() as connection:
        yield connection


@pytest.fixture
def client(system: DagsterSystem) -> Iterator[redis.Redis]:
    with system.redis() as client:
        yield client
