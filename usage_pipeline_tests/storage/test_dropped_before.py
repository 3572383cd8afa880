"""The migration to marks of dropped spans, on a database that dropped rows before: what can be found has a mark afterwards."""

import uuid
from collections.abc import Iterator
from datetime import datetime, timedelta

import psycopg
import pytest

from usage_pipeline.local.servers.both import LocalServers
from usage_pipeline.rollups.calendar import hour_window
from usage_pipeline.rollups.daily import DAILY_TABLES, replace_day
from usage_pipeline.rollups.windows import replace_window
from usage_pipeline.settings import Settings, load_settings
from usage_pipeline.storage.chunks.dropped import dropped_spans
from usage_pipeline.storage.chunks.partitions import ensure_chunks, ensure_partitions
from usage_pipeline.storage.migrations import migrate
from usage_pipeline.storage.postgres import connect
from usage_pipeline_tests.storage.lifecycle_rig import MIDNIGHT, NOW
from usage_pipeline_tests.storage.old_schema import before, let_code_make_partitions, old_database

EVENTS = "analytics.usage_events"
RAW = "raw.api_key_deltas"
# Hours and days that had 50 requests. Of GONE no row is left. Late rows came for LATE and are not rolled up; they were for
# REPLACED, of which only they are stored. The rows of WHOLE are there. FILED is in a file, where a late row came.
GONE, LATE, REPLACED, WHOLE, FILED = (MIDNIGHT - timedelta(days=days, hours=-12) for days in (40, 30, 20, 10, 8))


def store(connection: psycopg.Connection, hour: datetime, *, rolled: int, rows: int, is_stale: bool) -> None:
    """So many requests in the roll-ups, and so many rows that are there, each of one request."""
    day = hour.date()
    connection.execute(
        "insert into analytics.usage_hourly (hour_start, team, service, provider, model, requests, errors, input_tokens,"
        " output_tokens, total_tokens, distinct_users, unpriced_requests)"
        " values (%s, 't', 's', 'p', 'm', %s, 0, 0, 0, 0, 1, 0)",
        (hour, rolled),
    )
    connection.execute("insert into usage.api_key_daily values (%s, 'k', %s, 0, 0, 0, 0, null)", (day, rolled))
    connection.execute(
        "insert into ops.touched_days (family, usage_date, version, rolled_version) values ('api_key', %s, 2, %s)",
        (day, 1 if is_stale else 2),
    )
    if is_stale:
        connection.execute("insert into ops.touched_windows (grain, window_start) values ('hour', %s)", (hour,))
    if rows:
        let_code_make_partitions(connection)
        ensure_chunks(connection, EVENTS, [hour], 24)
        ensure_partitions(connection, RAW, [day])
    for _ in range(rows):
        connection.execute(
            f"insert into {EVENTS} (event_id, event_time, user_id, team, service, provider, model)"
            " values (%s, %s, 'u', 't', 's', 'p', 'm')",
            (uuid.uuid4(), hour + timedelta(minutes=5)),
        )
        connection.execute(f"insert into {RAW} values (%s, 'b', '', 'k', 1, 0, 0, 0, 0, null, null)", (day,))


@pytest.fixture
def older(servers: LocalServers) -> Iterator[Settings]:
    """A database that has no marks yet."""
    with old_database(servers.postgres, before("0011")) as url:
        yield load_settings(database_url=url)


def test_what_was_dropped_before_there_were_marks_gets_one_where_that_is_certain(older: Settings) -> None:
    with connect(older) as connection:
        store(connection, GONE, rolled=50, rows=0, is_stale=False)
        store(connection, LATE, rolled=50, rows=1, is_stale=True)
        store(connection, REPLACED, rolled=1, rows=1, is_stale=True)
        store(connection, WHOLE, rolled=2, rows=3, is_stale=True)
        store(connection, FILED, rolled=50, rows=1, is_stale=True)
        midnight = FILED.replace(hour=0)
        connection.execute(
            "insert into ops.archives (table_name, chunk_start, chunk_end, address, rows, bytes, checksum) "
            "select name, %s, %s, name, 50, 1, 'x' from unnest(%s::text[]) as name",
            (midnight, midnight + timedelta(days=1), [EVENTS, RAW]),
        )
    migrate(older.database_url.get_secret_value())
    with connect(older) as connection:
        spans = dropped_spans(connection, EVENTS)
        assert [any(start <= at < end for start, end in spans) for at in (GONE, LATE, REPLACED, WHOLE, FILED)] == [
            *(True, True, False, False, False)
        ]
        assert [start.date() for start, _ in dropped_spans(connection, RAW)] == [GONE.date(), LATE.date()]
        assert dropped_spans(connection, "raw.token_deltas") == []

        def rolled(at: datetime) -> tuple[int, int]:
            hour = replace_window(connection, hour_window(at, older.timezone), settings=older, now=NOW)
            day = replace_day(connection, DAILY_TABLES[0], at.date(), today=NOW.date())
            return int(hour.sums["requests"]), day.sums["total_requests"]

        for _ in range(2):
            assert [rolled(at) for at in (GONE, LATE, REPLACED, WHOLE)] == [(50, 50), (51, 51), (1, 1), (3, 3)]


def test_a_database_that_never_dropped_anything_gets_no_mark(older: Settings) -> None:
    with connect(older) as connection:
        store(connection, WHOLE, rolled=2, rows=2, is_stale=False)
    migrate(older.database_url.get_secret_value())
    with connect(older) as connection:
        assert connection.execute("select count(*) from ops.dropped_spans").fetchall() == [(0,)]
