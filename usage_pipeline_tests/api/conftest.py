"""A running service for each test that asks."""

from collections.abc import Iterator

import httpx
import psycopg
import pytest
from service_rig import Service, new_token, serving

from usage_pipeline.settings import Settings


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
