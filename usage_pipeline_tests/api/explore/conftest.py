"""A service with three days of rolled-up events, for all tests of a module."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

import httpx
import psycopg
import pytest

from usage_pipeline.bindings import Bounds
from usage_pipeline.settings import Settings, load_settings
from usage_pipeline_tests.api.explore.events_in_duckdb import random_events
from usage_pipeline_tests.rigs.service import new_token, serving
from usage_pipeline_tests.rollups.trace_rig import roll, store, windows_of

FIRST, LAST = date(2025, 6, 10), date(2025, 6, 12)
NOW = datetime(2025, 6, 20, 12, tzinfo=UTC)


@dataclass(frozen=True)
class Explored:
    """Asks as a token with some scopes; the events as they were sent."""

    base_url: httpx.URL
    postgres: psycopg.Connection
    settings: Settings
    events: list[dict[str, Any]]

    def client(self, *scopes: str, bounds: Bounds | None = None) -> httpx.Client:
        headers = {"Authorization": f"Bearer {new_token(self.postgres, *scopes, bounds=bounds)}"}
        return httpx.Client(base_url=self.base_url, headers=headers, timeout=60, trust_env=False)


@pytest.fixture(scope="module")
def explored(servers, databases) -> Iterator[Explored]:  # type: ignore[no-untyped-def]  # fixtures of the session
    name = databases.take()
    url = servers.postgres.url(name)
    settings = load_settings(database_url=url, redis_url=servers.redis_url, retention_days=3_000, rollup_tags="project")
    events = random_events(datetime(2025, 6, 10, tzinfo=UTC), 3, 250, seed=3)
    for number, event in enumerate(events):
        event["prompt"] = f"prompt {number}"
    with psycopg.connect(url, autocommit=True) as postgres:
        store(postgres, events, settings, NOW)
        roll(postgres, windows_of(events, settings), settings, NOW)
        with serving(settings) as service:
            yield Explored(service.client.base_url, postgres, settings, events)
    databases.drop(name)
