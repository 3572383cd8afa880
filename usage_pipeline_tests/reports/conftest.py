"""Two months of a real trace, rolled up, and a webhook that may get reports of them."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from usage_pipeline.settings import Settings, load_settings
from usage_pipeline_tests.rigs.alerts import Webhook, webhook
from usage_pipeline_tests.rollups.trace_rig import roll, store, trace_events, windows_of

ZONE = "Europe/Berlin"
NOW = datetime(2025, 11, 3, 12, tzinfo=UTC)
# The clocks go back in October.
SPANS = [
    (datetime(2025, 9, 1, tzinfo=UTC), timedelta(days=30)),
    (datetime(2025, 9, 30, 22, tzinfo=UTC), timedelta(days=31)),
]


@dataclass(frozen=True)
class Rolled:
    """A database with events that are rolled up, and the events as they were sent."""

    settings: Settings
    postgres: psycopg.Connection
    events: list[dict[str, Any]]


@pytest.fixture(scope="module")
def rolled(servers, databases) -> Iterator[Rolled]:  # type: ignore[no-untyped-def]  # fixtures of the session
    name = databases.take()
    url = servers.postgres.url(name)
    settings = load_settings(
        database_url=url,
        redis_url=servers.redis_url,
        usage_timezone=ZONE,
        usage_start_date="2025-08-01",
        retention_days=3_000,
    )
    events = trace_events(SPANS, seed=5, most=900)
    with psycopg.connect(url, autocommit=True) as postgres:
        postgres.execute("update ops.calendar set time_zone = %s", (ZONE,))
        store(postgres, events, settings, NOW)
        # Hours are in no report.
        windows = [window for window in windows_of(events, settings) if window.grain != "hour"]
        roll(postgres, windows, settings, NOW)
        yield Rolled(settings, postgres, events)
    databases.drop(name)


@pytest.fixture
def hook() -> Iterator[Webhook]:
    with webhook() as running:
        yield running
