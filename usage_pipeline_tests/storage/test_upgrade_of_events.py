"""A database of the version before, with events as they were stored then: they mean what the rules say now."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.types.json import Jsonb

from usage_pipeline.events.ingest.batches import ARCHIVES, EVENTS, ingest
from usage_pipeline.local.servers.both import LocalServers
from usage_pipeline.rollups.calendar import day_window
from usage_pipeline.rollups.dropped.run import run_lifecycle
from usage_pipeline.rollups.late_windows import stale_windows
from usage_pipeline.rollups.windows import replace_window
from usage_pipeline.settings import Settings, load_settings
from usage_pipeline.storage.archives.files import restore
from usage_pipeline.storage.archives.manifest import archives
from usage_pipeline.storage.archives.store import ArchiveStore
from usage_pipeline.storage.chunks.partitions import ensure_chunks
from usage_pipeline.storage.migrations import migrate
from usage_pipeline_tests.rigs.events import archive, as_items, list_cost, total_tokens
from usage_pipeline_tests.rigs.windows import event_at, window_rows
from usage_pipeline_tests.storage.old_schema import let_code_make_partitions, old_database

NOW = datetime.now(UTC)
AT = datetime(NOW.year, NOW.month, NOW.day, 10, 30, tzinfo=UTC) - timedelta(days=40)
BEFORE = "0010"
WIDE = {name: "".join(chr(0x20000 + 7 * n) for n in range(200)) for name in ("team", "service", "provider", "model")}
# What was sent beyond event_at, what version 0.1.0 stored of it that is different now, and the hash that it gave it.
OLD: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"error_type": ""}, {}, "fa8c794073b380ab21a90088b33f369b"),
    (
        {"error_type": "", "prompt": "", "extra": {"b": [1, 1.5, None], "a": "ü\t"}},
        {},
        "c662f5a99bf968905986e57d397d0195",
    ),
    ({"output_tokens": None}, {"total_tokens": 0}, "a50cb1465e4d082b9fbc46ea91764297"),
    ({"input_tokens": None}, {"total_tokens": 0}, "51d6023bef671a342611beb62b373867"),
    ({"status_code": 429, "output_tokens": 0}, {"total_tokens": 2_000}, "cb662e719461f91f0721b152d352a293"),
    ({}, {}, "edca7b03f60e3aeee86114242362155f"),
]
OLD_ARCHIVE = "eebb86213cdd34fe0bebfe7274f42846"


@pytest.fixture
def old(servers: LocalServers) -> Iterator[str]:
    """The URL of a database at revision 0010."""
    with old_database(servers.postgres, BEFORE) as url:
        yield url


def store_as_before(
    connection: psycopg.Connection, sent: dict[str, Any], stored: dict[str, Any], payload_hash: str
) -> None:
    """The row of an event as version 0.1.0 wrote it."""
    row = {"total_tokens": 2_500, "error_type": None, "prompt": None, "extra": None, **sent, **stored}
    row["extra"] = None if row["extra"] is None else Jsonb(row["extra"])
    columns = sql.SQL(", ").join(map(sql.Identifier, row))
    values = sql.SQL(", ").join(map(sql.Placeholder, row))
    connection.execute(
        "insert into analytics.usage_event_ids (event_id, event_time, payload_hash) values (%s, %s, %s)",
        (row["event_id"], row["event_time"], bytes.fromhex(payload_hash)),
    )
    connection.execute(sql.SQL("insert into analytics.usage_events ({}) values ({})").format(columns, values), row)


def test_stored_events_are_mended_rolled_up_again_and_a_retry_of_each_is_a_duplicate(old: str, redis_url: str) -> None:
    settings = load_settings(database_url=old, redis_url=redis_url)
    events = [event_at(AT, **changes) for changes, _, _ in OLD]
    wide = event_at(AT, **WIDE)
    with psycopg.connect(old, autocommit=True) as connection:
        let_code_make_partitions(connection)
        ensure_chunks(connection, "analytics.usage_events", [AT], 24)
        ensure_chunks(connection, "analytics.message_archives", [AT], 24)
        for event, (_, stored, payload_hash) in zip(events, OLD, strict=True):
            store_as_before(connection, event, stored, payload_hash)
        store_as_before(connection, wide, {}, "00")
        archived = archive(events[0]["event_id"], prompt_full="", response_full="A")
        connection.execute(
            "insert into analytics.message_archive_ids values (%s, %s)",
            (events[0]["event_id"], bytes.fromhex(OLD_ARCHIVE)),
        )
        connection.execute(
            "insert into analytics.message_archives (event_id, event_time, user_id, service, prompt_full, response_full) "
            "values (%s, %s, 'user-1', 'chat', '', 'A')",
            (events[0]["event_id"], AT),
        )
    migrate(old)
    with psycopg.connect(old, autocommit=True) as connection:
        day = day_window(AT.date(), settings.timezone)
        stale = {str(one.window) for one in stale_windows(connection, time_zone=settings.timezone, now=NOW)}
        assert stale == {str(day), f"hour {AT:%Y-%m-%dT10:00Z}"}
        replace_window(connection, day, settings=settings)
        costs = [list_cost(event) for event in events]
        columns = "team, requests, errors, total_tokens, cost_usd, unpriced_requests"
        assert window_rows(connection, day, columns) == [
            ("search", 6, 1, sum(map(total_tokens, events)), sum(cost for cost in costs if cost is not None), 0),
            (WIDE["team"], 1, 0, 2_500, None, 1),
        ]
        retried = [event | {"error_type": None} if event.get("error_type") == "" else event for event in events]
        for again in (events, retried):
            report = ingest(connection, EVENTS, as_items(*again), source="test", settings=settings)
            assert (report.duplicates, report.conflicts) == (len(events), 0)
        report = ingest(connection, ARCHIVES, as_items(archived), source="test", settings=settings)
        assert (report.duplicates, report.conflicts) == (1, 0)


def test_events_of_an_old_archive_are_mended_when_they_are_read_back(
    settings: Settings, postgres: psycopg.Connection, tmp_path: Path
) -> None:
    archiving = settings.model_copy(update={"archive_url": str(tmp_path / "archive")})
    event = event_at(AT, error_type="", output_tokens=None)
    ensure_chunks(postgres, "analytics.usage_events", [AT], 24)
    store_as_before(postgres, event, {"total_tokens": 0}, "00")
    [packed] = run_lifecycle(archiving).archived
    assert packed.rows == 1
    postgres.execute("update ops.archives set has_old_rules = true")
    [archived] = archives(postgres)
    restore(postgres, ArchiveStore(str(archiving.archive_url)), archived, interval_hours=24)
    rows = postgres.execute("select error_type, total_tokens from analytics.usage_events").fetchall()
    assert rows == [(None, total_tokens(event))]
    day = day_window(AT.date(), settings.timezone)
    assert str(day) in {str(one.window) for one in stale_windows(postgres, time_zone=settings.timezone, now=NOW)}
    replace_window(postgres, day, settings=settings)
    assert window_rows(postgres, day, "errors, cost_usd") == [(0, Decimal("0.005"))]


def test_archives_of_now_are_read_back_as_they_are(
    settings: Settings, postgres: psycopg.Connection, tmp_path: Path
) -> None:
    archiving = settings.model_copy(update={"archive_url": str(tmp_path / "archive")})
    failed = event_at(AT, status_code=500, output_tokens=0)
    ingest(postgres, EVENTS, as_items(failed), source="test", settings=settings)
    postgres.execute("delete from ops.touched_windows")
    run_lifecycle(archiving)
    [archived] = archives(postgres)
    restore(postgres, ArchiveStore(str(archiving.archive_url)), archived, interval_hours=24)
    assert stale_windows(postgres, time_zone=settings.timezone, now=NOW) == []
