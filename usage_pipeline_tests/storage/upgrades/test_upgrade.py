"""From version 0.1.0 to now: every value stays, but for those named here with their reason, and everything goes on working."""

import json
import subprocess
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis

from usage_pipeline.events.ingest.batches import EVENTS, ingest
from usage_pipeline.local.servers.both import LocalServers
from usage_pipeline.rollups.calendar import day_window, hour_window
from usage_pipeline.rollups.daily import DAILY_TABLES, current_day, replace_day
from usage_pipeline.rollups.dropped.run import run_lifecycle
from usage_pipeline.rollups.windows import replace_window
from usage_pipeline.settings import Settings, load_settings
from usage_pipeline.storage.migrations import migrate
from usage_pipeline.storage.schema_version import stored_version
from usage_pipeline_tests.conftest import Launcher
from usage_pipeline_tests.rigs.clock import days_ago
from usage_pipeline_tests.rigs.commands import run_command
from usage_pipeline_tests.rigs.events import as_items
from usage_pipeline_tests.rigs.windows import event_at, window_rows
from usage_pipeline_tests.storage.old_schema import before, old_database
from usage_pipeline_tests.storage.upgrades.version_0_1_0 import (
    HASH,
    VERSION,
    Filled,
    rows,
    tables,
)

# Table -> the columns that an upgrade changes, and why: 0013 gave one meaning to events that said the same in several ways.
CHANGED = {
    # An empty error type and an empty text are the same as none.
    "analytics.usage_events": {"error_type": ("", None)},
    "analytics.message_archives": {"prompt_full": ("", None)},
    # So both have the hash of the event without it, and a retry of either form is a duplicate.
    "analytics.usage_event_ids": {"payload_hash": None},
    "analytics.message_archive_ids": {"payload_hash": None},
}
# Columns that are no more, and why: 0040 has a row for each alert and channel instead (ops.alert_tellings).
GONE = {
    "ops.alerts": {
        *("pending", "delivered_at", "cleared_delivered_at", "delivered_to", "attempts", "next_try_at"),
        *("claimed_by", "claimed_until", "delivery_error"),
    }
}
# Rows are added, so that the day is rolled up again by those rules, and with what roll-ups know since.
ADDED = {"ops.touched_windows"}
PRIVILEGES = """
    select nspname || '.' || relname, (aclexplode(relacl)).grantee::regrole::text, (aclexplode(relacl)).privilege_type
    from pg_class
    join pg_namespace on pg_namespace.oid = relnamespace
    where nspname in ('app', 'raw', 'usage', 'analytics', 'stats', 'ops', 'reporting')
      and relkind in ('r', 'p', 'v')
      and not relispartition
    order by 1, 2, 3
"""
SHAPE = """
    select table_schema || '.' || table_name, column_name, data_type, is_nullable, column_default
    from information_schema.columns
    join pg_class on pg_class.oid = format('%I.%I', table_schema, table_name)::regclass
    where table_schema in ('app', 'raw', 'usage', 'analytics', 'stats', 'ops', 'reporting') and not relispartition
    union all
    select conrelid::regclass::text, pg_get_constraintdef(pg_constraint.oid), null, null, null
    from pg_constraint
    join pg_class on pg_class.oid = conrelid
    where connamespace::regnamespace::text in ('app', 'raw', 'usage', 'analytics', 'stats', 'ops') and not relispartition
    order by 1, 2
"""
# A version that needs a lock on a table that the test holds; those before it are there by then.
STUCK_BEFORE, HELD = "0022", "analytics.model_prices"


@pytest.fixture
def old(servers: LocalServers, database_url: str) -> Iterator[tuple[str, Filled, psycopg.Connection]]:
    """A database of version 0.1.0 beside one of now, on a server that has the roles: its URL, its content, a connection."""
    assert database_url
    with (
        old_database(servers.postgres, VERSION) as url,
        closing(psycopg.connect(url, autocommit=True)) as connection,
    ):
        yield url, Filled(connection, days_ago(12)), connection


Rows = dict[str, list[dict[str, Any]]]


def assert_kept(stored: Rows, connection: psycopg.Connection) -> None:
    """Each value of each row that was stored is there now, but for the changes that are listed above."""
    now = tables(connection)
    gone = {table: {*found[0]} - {*now[table]} for table, found in stored.items()}
    assert {table: names for table, names in gone.items() if names} == GONE
    for table, was in stored.items():
        expected = [_without(row, gone[table]) for row in was]
        found = rows(connection, {table: list(expected[0])})[table]
        if table in ADDED:
            assert [row for row in expected if row not in found] == [], table
            continue
        changes = CHANGED.get(table, {})
        kept = [[_without(row, changes) for row in side] for side in (found, expected)]
        assert sorted(kept[0], key=repr) == sorted(kept[1], key=repr), table
        for name, change in changes.items():
            was, became = ({row[name] for row in side} for side in (expected, found))
            if change is not None:
                assert (change[0] in was, became) == (True, was - {change[0]} | {change[1]}), (table, name)


def _without(row: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in names}


def test_every_table_is_filled_and_no_value_of_any_changes_but_those_that_are_listed(
    old: tuple[str, Filled, psycopg.Connection], postgres: psycopg.Connection
) -> None:
    url, _, connection = old
    columns_of = tables(connection)
    stored = rows(connection, columns_of)
    assert [table for table, found in stored.items() if not found] == []
    version = migrate(url)
    assert_kept(stored, connection)
    hashes = connection.execute("select distinct payload_hash from analytics.usage_event_ids").fetchall()
    assert hashes == [(bytes.fromhex(HASH),)]
    # A second migration changes nothing at all.
    every = tables(connection)
    once = rows(connection, every)
    assert migrate(url) == version
    assert rows(connection, every) == once
    # It is the schema of a database that began today, with the same rights.
    for query in (SHAPE, PRIVILEGES):
        expected = postgres.execute(query).fetchall()
        assert len(expected) > 100
        assert connection.execute(query).fetchall() == expected


def test_every_view_answers_after_it(old: tuple[str, Filled, psycopg.Connection]) -> None:
    url, _, connection = old
    migrate(url)
    views = connection.execute("select viewname::text from pg_views where schemaname = 'reporting'").fetchall()
    counts = {view: connection.execute(f"select count(*) from reporting.{view}").fetchone() for (view,) in views}
    assert len(counts) > 30
    # Events had no API key and no tags then.
    assert {view for view, count in counts.items() if count == (0,)} == {"usage_by_api_key", "usage_by_tag"}


def test_a_migration_that_is_killed_half_way_goes_on_where_it_was(
    old: tuple[str, Filled, psycopg.Connection], launch: Callable[..., Launcher]
) -> None:
    url, _, connection = old
    columns_of = tables(connection)
    expected = rows(connection, columns_of)
    with psycopg.connect(url) as holder:
        holder.execute(f"lock table {HELD} in access share mode")
        migrating = launch(
            "import logging, sys\n"
            "from usage_pipeline.storage.migrations import migrate\n"
            "logging.basicConfig(level=logging.INFO)\n"
            f"migrate({url!r})\n"
        )
        migrating.wait_for("waits for sessions that hold our tables")
        migrating.kill()
        holder.rollback()
    assert stored_version(connection) == before(STUCK_BEFORE)
    version = migrate(url)
    assert stored_version(connection) == version
    assert_kept(expected, connection)


def claim(client: redis.Redis, batch: str, requests: int) -> None:
    """A key as version 0.1.0 claimed it."""
    client.hset("usage_pipeline:open:api_key", batch, "old-run-id")
    client.hset(
        f"usage_pipeline:claim:{batch}:{{apikey:k:metrics}}",
        mapping={"total_requests": requests, "total_file_size": requests * 1_000},
    )


def test_batches_that_the_old_code_left_open_are_stored_once_by_the_new_code(
    old: tuple[str, Filled, psycopg.Connection], redis_client: redis.Redis, settings: Settings
) -> None:
    url, filled, connection = old
    # 3 requests of it are stored, and their key was not deleted yet. 4 are claimed only, 2 were written since.
    claim(redis_client, filled.applied, 3)
    claim(redis_client, filled.claimed, 4)
    redis_client.hset("apikey:k:metrics", mapping={"total_requests": 2})
    migrate(url)
    new = load_settings(database_url=url, redis_url=settings.redis_dsn.get_secret_value())
    for _ in range(2):
        assert_ran(run_command(new, "drain"))
    query = "select total_requests from usage.api_keys where api_key_id = 'k'"
    assert connection.execute(query).fetchall() == [(8 + 4 + 2,)]
    assert connection.execute("select sum(total_requests) from raw.api_key_deltas").fetchall() == [(8 + 4 + 2,)]
    assert connection.execute("select batch_id from ops.sync_batches where released_at is null").fetchall() == []
    assert list(redis_client.scan_iter("usage_pipeline:claim:*")) == []
    assert redis_client.hgetall("usage_pipeline:open:api_key") == {}


def test_everything_works_on_the_upgraded_database(
    old: tuple[str, Filled, psycopg.Connection], redis_client: redis.Redis, settings: Settings, tmp_path: Path
) -> None:
    url, filled, connection = old
    migrate(url)
    new = load_settings(
        database_url=url, redis_url=settings.redis_dsn.get_secret_value(), archive_url=str(tmp_path / "archive")
    )
    # A dead letter of the old version whose cause is gone.
    [(letter,)] = connection.execute(
        "select dead_letter_id from ops.dead_letters where source_key = 'token_usage:late:i'"
    ).fetchall()
    for _ in range(2):
        run_command(new, "dead-letters", "replay", letter)
    used = "select usage_count from usage.api_access_tokens where token_id = 'late'"
    assert connection.execute(used).fetchall() == [(9,)]
    # Merchants: one whose loss was settled before (20 are beyond the counter), and one whose loss is open.
    redis_client.set(f"usage:m:{filled.day}:orders", 55)
    redis_client.set(f"usage:lost:{filled.day}:orders", 12)
    run_command(new, "aggregate", "--date", filled.day)
    merchants = "select merchant_id, metric_value from usage.merchant_usage order by 1"
    assert connection.execute(merchants).fetchall() == [("lost", 50), ("m", 75)]
    assert_ran(run_command(new, "counters", "accept-reset", "--merchant", "lost"))
    assert connection.execute(merchants).fetchall() == [("lost", 62), ("m", 75)]
    # Events: those that are stored are known, another is stored; their hour and day are rolled up by the rules of now.
    again = [event_at(filled.at, event_id=event_id) for event_id in filled.events]
    report = ingest(connection, EVENTS, as_items(*again, event_at(filled.at)), source="test", settings=new)
    assert (report.duplicates, report.inserted, report.conflicts) == (3, 1, 0)
    for window in (hour_window(filled.at.replace(minute=0), new.timezone), day_window(filled.day, new.timezone)):
        replace_window(connection, window, settings=new)
        assert window_rows(connection, window, "requests, errors, total_tokens") == [(4, 0, 10_000)]
    for daily in DAILY_TABLES:
        replace_day(connection, daily, filled.day, today=current_day(new.timezone))
    days = "select total_requests, failed_requests from usage.api_key_daily"
    assert connection.execute(days).fetchall() == [(8, 2)]
    status = run_command(new, "status", "--json")
    assert status.returncode == 0, status
    assert json.loads(status.stdout)
    for command in (
        ("alerts",),
        ("dead-letters", "list"),
        ("archive", "list"),
        ("tokens", "list"),
        ("merchants", "status"),
    ):
        assert_ran(run_command(new, *command))
    archived = run_lifecycle(new).archived
    # The day of the API keys waits: one of its batches is not released.
    assert {one.table for one in archived} == {
        *("analytics.message_archives", "analytics.usage_events"),
        *("raw.provider_deltas", "raw.request_events", "raw.token_deltas"),
    }


def assert_ran(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done
