"""Events, archives and counters of past days, and what is stored of them, for the tests of the lifecycle."""

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg

from usage_pipeline.events.ingest.batches import ARCHIVES, EVENTS, IngestReport, ingest
from usage_pipeline.settings import Settings
from usage_pipeline.storage.lifecycle.report import LifecycleReport
from usage_pipeline_tests.rigs.events import archive, as_items, event

NOW = datetime.now(UTC).replace(microsecond=0)
MIDNIGHT = NOW.replace(hour=0, minute=0, second=0)
EVENT_TABLE = "analytics.usage_events"
ARCHIVE_TABLE = "analytics.message_archives"
# Every kind of value that a column may hold: nulls, empty strings, Unicode, limits, microseconds, characters that COPY escapes.
HARD_VALUES: list[dict[str, Any]] = [
    {
        "user_id": "ü 用户 🦩\t\\N",
        "prompt": "",
        "extra": {},
        "error_type": None,
        "status_code": None,
        "latency_ms": None,
    },
    {
        "prompt": "a\tb\nc\\.\r\n\\N",
        "extra": {"Ü": [1, 1.5, None, {"\\u": "\\"}], "n": 10**30},
        "latency_ms": 2**31 - 1,
        "event_id": "\\N\t🦩",
        "source": "a\\\n",
        "usage": {"cache_read_tokens": 9, "input_audio_tokens": 8, "audio_seconds": 0.1},
        "total_tokens": 121,
        "service_tier": "\\N",
        "api_key_id": "\t",
        "cost_usd": "0." + "1" * 40,
        "tags": {"\\": "a\tb\n", "Ü": "🦩"},
    },
    {
        "input_tokens": 2**63 - 1,
        "output_tokens": 0,
        "usage": {"cache_write_tokens": 2**63 - 1},
        "cost_usd": 1_000_000_000,
        "prompt": "x" * 100_000,
        "error_type": "timeout",
        "status_code": 599,
    },
    {"input_tokens": ..., "output_tokens": ..., "total_tokens": 2**63 - 1, "extra": {"deep": [[[["🦩"]]]]}},
    {"input_tokens": 0, "output_tokens": 0, "model": "\u2028", "team": "\u200b", "service": "'\"", "provider": "%s{}"},
]


def day(days_ago: int) -> datetime:
    """Noon of a past day, UTC, with microseconds."""
    return MIDNIGHT - timedelta(days=days_ago) + timedelta(hours=12, microseconds=123_457)


def store_events(
    connection: psycopg.Connection, settings: Settings, at: datetime, *changes: dict[str, Any]
) -> IngestReport:
    """Ingests events about a moment, a second apart."""
    items = [
        event(event_time=(at + timedelta(seconds=number)).isoformat(), **change)
        for number, change in enumerate(changes)
    ]
    report = ingest(connection, EVENTS, as_items(*items), source="test", settings=settings, now=NOW)
    assert report.inserted == len(items), report.rejected
    return report


def store_archives(connection: psycopg.Connection, settings: Settings, **changes: Any) -> None:
    """A message archive for each stored event that has none."""
    ids = connection.execute("select event_id from analytics.usage_event_ids order by 1").fetchall()
    known = {row for (row,) in connection.execute("select event_id from analytics.message_archive_ids")}
    items = [archive(str(event_id), **changes) for (event_id,) in ids if event_id not in known]
    ingest(connection, ARCHIVES, as_items(*items), source="test", settings=settings, now=NOW)


def roll_up(connection: psycopg.Connection) -> None:
    """As the roll-ups leave it: no window and no day waits, every batch is released."""
    connection.execute("delete from ops.touched_windows")
    connection.execute("update ops.touched_days set rolled_version = version, rolled_at = now()")
    connection.execute("update ops.sync_batches set released_at = now() where released_at is null")


def rows_of(connection: psycopg.Connection, table: str) -> list[tuple[Any, ...]]:
    """All rows of a table as text, whole and in one order."""
    return connection.execute(f"select t::text from {table} as t order by 1").fetchall()


def count_of(connection: psycopg.Connection, table: str) -> int:
    [(rows,)] = connection.execute(f"select count(*) from {table}").fetchall()
    return int(rows)


def waiting_on(report: LifecycleReport, chunk: str) -> list[str]:
    """Why chunks of that name had to wait."""
    return [waiting.reason for waiting in report.waiting if chunk in waiting.chunk]


def random_id() -> str:
    return str(uuid.uuid4())


def age_restores(connection: psycopg.Connection) -> None:
    """As if what was read back had been so two days ago."""
    connection.execute("update ops.archives set restored_at = restored_at - interval '2 days'")
