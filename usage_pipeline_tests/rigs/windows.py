"""Small usage events at given moments, stored, and what their windows say."""

import json
import uuid
from datetime import datetime
from typing import Any

import psycopg

from usage_pipeline.events.ingest.batches import EVENTS, ingest
from usage_pipeline.rollups.calendar import Window
from usage_pipeline.rollups.window_tables import WINDOW_TABLES
from usage_pipeline.settings import Settings


def event_at(at: datetime, **changes: Any) -> dict[str, Any]:
    """A request to a model whose price is known: 0.01 US dollars."""
    return {
        "event_id": str(uuid.uuid4()),
        "event_time": at.isoformat(),
        "user_id": "user-1",
        "team": "search",
        "service": "chat",
        "provider": "openai",
        "model": "gpt-4o",
        "input_tokens": 2_000,
        "output_tokens": 500,
        "latency_ms": 350,
        "status_code": 200,
        **changes,
    }


def store_events(postgres: psycopg.Connection, settings: Settings, now: datetime, *events: dict[str, Any]) -> None:
    items = [json.dumps(event).encode() for event in events]
    report = ingest(postgres, EVENTS, items, source="test", settings=settings, now=now)
    assert report.inserted == len(events), report


def window_rows(postgres: psycopg.Connection, window: Window, columns: str = "*") -> list[tuple[Any, ...]]:
    """The stored rows of a window."""
    table = WINDOW_TABLES[window.grain]
    name = window.start if window.grain == "hour" else window.day
    return postgres.execute(
        f"select {columns} from {table.table} where {table.column} = %s order by team, service, provider, model",
        (name,),
    ).fetchall()


def archive_chunk(postgres: psycopg.Connection, window: Window) -> None:
    """Notes that the events of that time are in a file only."""
    postgres.execute(
        "insert into ops.archives (table_name, chunk_start, chunk_end, address, rows, bytes, checksum) "
        "values ('analytics.usage_events', %s, %s, %s, 1, 1, 'x')",
        (window.first, window.end, str(uuid.uuid4())),
    )
