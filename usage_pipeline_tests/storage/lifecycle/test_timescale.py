"""Hypertables: from the start where the server has TimescaleDB, compressed and dropped by the lifecycle run.

They need such a server: TIMESCALEDB_URL, a superuser's URL; each test makes a database of its own there.
"""

import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from usage_pipeline.rollups.dropped.run import run_lifecycle
from usage_pipeline.rollups.late_windows import stale_windows
from usage_pipeline.rollups.windows import replace_window
from usage_pipeline.settings import Settings, load_settings
from usage_pipeline.storage.chunks.partitions import Chunk
from usage_pipeline.storage.lifecycle.timescale import whole_spans
from usage_pipeline.storage.migrations import migrate
from usage_pipeline.storage.timescale import is_hypertable, unfit
from usage_pipeline_tests.rigs.waiting import wait_until
from usage_pipeline_tests.storage.lifecycle_rig import (
    ARCHIVE_TABLE,
    EVENT_TABLE,
    HARD_VALUES,
    MIDNIGHT,
    NOW,
    count_of,
    day,
    roll_up,
    rows_of,
    store_archives,
    store_events,
    waiting_on,
)

COUNTS = "analytics.usage_hourly_counts"


def test_the_aggregate_is_refreshed_in_whole_chunks_only() -> None:
    """A refresh of an hour whose events were dropped would replace its counts by those of late events, or by none."""

    def days(first: int, last: int) -> tuple[datetime, datetime]:
        return MIDNIGHT + timedelta(days=first), MIDNIGHT + timedelta(days=last)

    chunks = [Chunk(f"chunk_{number}", *days(number, number + 1)) for number in (1, 2, 3, 5, 6, 9)]
    _, end = days(0, 20)
    assert whole_spans(chunks, [], until=end) == [days(1, 4), days(5, 7), days(9, 10)]
    assert whole_spans(chunks, [days(0, 2), days(6, 7)], until=end) == [days(2, 4), days(5, 6), days(9, 10)]
    assert whole_spans(chunks, [days(0, 20)], until=end) == whole_spans([], [], until=end) == []
    # The running hour, and a chunk that has just begun.
    assert whole_spans(chunks, [], until=MIDNIGHT + timedelta(days=6, hours=2))[1:] == [
        (MIDNIGHT + timedelta(days=5), MIDNIGHT + timedelta(days=6, hours=2))
    ]
    assert whole_spans(chunks, [], until=MIDNIGHT + timedelta(days=9))[2:] == []


@pytest.mark.parametrize(
    ("version", "license_", "why"),
    [
        ("2.13.1", "timescale", "TimescaleDB 2.13.1 is older than 2.14"),
        ("1.7.5", None, "TimescaleDB 1.7.5 is older than 2.14"),
        ("2.9.3", None, "TimescaleDB 2.9.3 is older than 2.14"),
        ("2.28.3", "apache", "TimescaleDB 2.28.3 is under the Apache licence here"),
        ("2.14.0", "timescale", None),
        ("2.18.2", None, None),
        ("2.30.0-dev", "timescale", None),
        ("3.0.0", "timescale", None),
    ],
)
def test_an_old_one_and_one_under_the_apache_licence_do_not_fit(
    version: str, license_: str | None, why: str | None
) -> None:
    found = unfit(version, license_)
    assert found is None if why is None else str(found).startswith(why)


@pytest.fixture
def hyper(timescale_url: str, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    migrate(timescale_url)
    return load_settings(database_url=timescale_url, archive_url=str(tmp_path_factory.mktemp("archive")))


@pytest.fixture
def server(hyper: Settings) -> Iterator[psycopg.Connection]:
    with psycopg.connect(hyper.database_url.get_secret_value(), autocommit=True) as connection:
        yield connection


def test_events_are_hypertables_from_the_start_like_the_native_tables(
    server: psycopg.Connection, postgres: psycopg.Connection
) -> None:
    assert is_hypertable(server, EVENT_TABLE)
    assert is_hypertable(server, ARCHIVE_TABLE)
    described = """
        select 'column', attname, format_type(atttypid, atttypmod), attnotnull::text, col_description(attrelid, attnum)
        from pg_attribute where attrelid = any(%(tables)s::text[]::regclass[]) and attnum > 0 and not attisdropped
        union all
        select 'constraint', conname, pg_get_constraintdef(oid), '', '' from pg_constraint
        where conrelid = any(%(tables)s::text[]::regclass[]) and contype = 'c'
        union all
        select 'index', indexrelid::regclass::text, replace(pg_get_indexdef(indexrelid), ' ONLY ', ' '), '', '' from pg_index
        where indrelid = any(%(tables)s::text[]::regclass[])
        union all
        select 'table', table_name, obj_description(table_name::regclass, 'pg_class'), '', ''
        from unnest(%(tables)s::text[]) as table_name
        order by 1, 2, 3
    """
    tables = {"tables": [EVENT_TABLE, ARCHIVE_TABLE]}
    assert set(server.execute(described, tables)) == set(postgres.execute(described, tables))


def test_a_second_migration_changes_nothing_and_everything_is_explained(
    hyper: Settings, server: psycopg.Connection
) -> None:
    assert migrate(hyper.database_url.get_secret_value()) != "none"
    silent = """
        select attrelid::regclass, attname from pg_attribute join pg_class on pg_class.oid = attrelid
        where relnamespace = 'analytics'::regnamespace and relkind in ('r', 'p', 'v') and attnum > 0 and not attisdropped
          and (col_description(attrelid, attnum) is null or obj_description(attrelid, 'pg_class') is null)
    """
    assert server.execute(silent).fetchall() == []


def test_a_database_that_began_natively_stays_so(timescale_url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with psycopg.connect(timescale_url, autocommit=True) as connection:
        connection.execute("create table public.usage_pipeline_version (version_num varchar(32) not null primary key)")
        migrate(timescale_url)
        assert not is_hypertable(connection, EVENT_TABLE)
        assert "began with native partitions, and keeps them" in caplog.text
        connection.execute("create extension timescaledb")
        report = run_lifecycle(load_settings(database_url=timescale_url))
        assert report.strategy == "native partitions"


@pytest.mark.parametrize("is_there", [False, True], ids=["offered", "made by an administrator"])
def test_under_the_apache_licence_events_are_native_and_the_log_says_why(
    is_there: bool, timescale_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with psycopg.connect(timescale_url, autocommit=True) as connection:
        # Only a server's configuration can say it, and only a session that has the extension knows the name.
        connection.execute("create extension timescaledb")
        connection.execute("alter system set timescaledb.license = 'apache'")
        try:
            connection.execute("select pg_reload_conf()")
            wait_until(lambda: _license_of_a_new_session(timescale_url) == "apache", "new sessions are under it", 20)
            if not is_there:
                connection.execute("drop extension timescaledb")
            migrate(timescale_url)
            report = run_lifecycle(load_settings(database_url=timescale_url))
        finally:
            connection.execute("alter system reset timescaledb.license")
            connection.execute("select pg_reload_conf()")
    assert report.strategy == "native partitions"
    said = [record.message for record in caplog.records if record.message.startswith("storage: ")]
    assert len(said) == 1
    assert "under the Apache licence here" in said[0]


def _license_of_a_new_session(url: str) -> str:
    with psycopg.connect(url) as connection:
        [(found,)] = connection.execute("select current_setting('timescaledb.license', true)").fetchall()
        return str(found)


def test_complete_chunks_are_compressed_and_keep_their_rows(hyper: Settings, server: psycopg.Connection) -> None:
    store_events(server, hyper, day(10), *HARD_VALUES)
    store_archives(server, hyper)
    before = rows_of(server, EVENT_TABLE), rows_of(server, ARCHIVE_TABLE)
    report = run_lifecycle(hyper)
    assert report.strategy == "TimescaleDB"
    assert report.compressed == []
    assert waiting_on(report, "_hyper_")[0].endswith("is not rolled up")
    roll_up(server)
    report = run_lifecycle(hyper)
    assert [(packed.table, packed.rows) for packed in report.compressed] == [(ARCHIVE_TABLE, 5), (EVENT_TABLE, 5)]
    assert all(packed.bytes_before > 0 and packed.bytes_after > 0 for packed in report.compressed)
    assert (rows_of(server, EVENT_TABLE), rows_of(server, ARCHIVE_TABLE)) == before
    assert run_lifecycle(hyper).compressed == []


def test_late_rows_go_into_compressed_chunks_which_are_compressed_again(
    hyper: Settings, server: psycopg.Connection
) -> None:
    store_events(server, hyper, day(10), {}, {})
    roll_up(server)
    run_lifecycle(hyper)
    store_events(server, hyper, day(10) + timedelta(minutes=1), {})
    assert count_of(server, EVENT_TABLE) == 3
    assert run_lifecycle(hyper).compressed == []
    roll_up(server)
    assert len(run_lifecycle(hyper).compressed) == 1
    assert count_of(server, EVENT_TABLE) == 3
    assert run_lifecycle(hyper).compressed == []


@pytest.mark.parametrize("hours", [6, 12, 24, 48])
def test_the_length_of_chunks_is_the_one_that_is_set(hours: int, hyper: Settings, server: psycopg.Connection) -> None:
    run_lifecycle(hyper.model_copy(update={"chunk_time_interval_hours": hours}))
    store_events(server, hyper, day(3), {})
    lengths = (
        "select distinct range_end - range_start from timescaledb_information.chunks"
        " where hypertable_name = 'usage_events'"
    )
    assert server.execute(lengths).fetchall() == [(timedelta(hours=hours),)]


def test_old_chunks_go_once_they_are_rolled_up_and_their_counts_stay(
    hyper: Settings, server: psycopg.Connection
) -> None:
    store_events(server, hyper, day(20), {}, {"status_code": 500}, {"error_type": "timeout"})
    store_events(server, hyper, day(2), {})
    short = hyper.model_copy(update={"retention_days": 15})
    counted = f"select sum(requests), sum(errors), sum(total_tokens) from {COUNTS}"
    assert server.execute(counted).fetchall() == [(4, 2, 480)]
    report = run_lifecycle(short)
    assert report.dropped == []
    assert waiting_on(report, "_hyper_")
    roll_up(server)
    report = run_lifecycle(short)
    assert [moved.table for moved in report.dropped] == [EVENT_TABLE]
    assert report.registry_rows_removed == 3
    assert count_of(server, EVENT_TABLE) == count_of(server, "analytics.usage_event_ids") == 1
    run_lifecycle(short)
    assert server.execute(counted).fetchall() == [(4, 2, 480)]


def test_the_hourly_counts_answer_up_to_now(hyper: Settings, server: psycopg.Connection) -> None:
    # A refresh takes whole hours, so both are of the running one.
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    store_events(server, hyper, hour, {}, {"status_code": 404})
    run_lifecycle(hyper)
    store_events(server, hyper, hour, {})
    assert server.execute(f"select sum(requests), sum(errors) from {COUNTS}").fetchall() == [(3, 1)]
    # An event for an hour that was refreshed shows with the next refresh.
    store_events(server, hyper, day(2), {})
    run_lifecycle(hyper)
    assert server.execute(f"select sum(requests) from {COUNTS}").fetchall() == [(4,)]


def test_raw_tables_are_archived_as_without_timescaledb(hyper: Settings, server: psycopg.Connection) -> None:
    from usage_pipeline.storage.chunks.partitions import ensure_partitions

    old = (MIDNIGHT - timedelta(days=10)).date()
    ensure_partitions(server, "raw.request_events", [old])
    server.execute(
        "insert into raw.request_events values (%s, 'b', gen_random_uuid(), 'k', 'u', 's3', 'upload', 1, 'success', now())",
        (old,),
    )
    report = run_lifecycle(hyper)
    assert [(packed.table, packed.rows) for packed in report.archived] == [("raw.request_events", 1)]


def test_two_runs_at_once_compress_each_chunk(hyper: Settings, server: psycopg.Connection) -> None:
    from concurrent.futures import ThreadPoolExecutor

    for days_ago in range(10, 14):
        store_events(server, hyper, day(days_ago), {}, {})
    roll_up(server)
    with ThreadPoolExecutor(2) as pool:
        reports = list(pool.map(lambda _: run_lifecycle(hyper), range(2)))
    assert {packed.chunk for report in reports for packed in report.compressed} != set()
    assert sum(len(report.problems) for report in reports) == 0
    assert run_lifecycle(hyper).compressed == []
    assert count_of(server, EVENT_TABLE) == 8


def test_a_user_is_erased_from_compressed_chunks_too(hyper: Settings, server: psycopg.Connection) -> None:
    from usage_pipeline.events.erasure.erase import erase

    store_events(server, hyper, day(10), {"prompt": "mine"}, {"user_id": "other", "prompt": "theirs"})
    store_events(server, hyper, day(1), {"prompt": "mine"})
    store_archives(server, hyper)
    roll_up(server)
    run_lifecycle(hyper)
    counted = f"select sum(requests), sum(total_tokens) from {COUNTS}"
    before = server.execute(counted).fetchall()
    done = erase(hyper, "user-1")
    assert done.counts == {EVENT_TABLE: 2, ARCHIVE_TABLE: 3}
    users = server.execute(f"select user_id, prompt from {EVENT_TABLE} order by event_time, user_id").fetchall()
    assert users == [(done.pseudonym, None), ("other", "theirs"), (done.pseudonym, None)]
    assert count_of(server, ARCHIVE_TABLE) == 0
    # What a changed row left uncompressed is compressed again, and the counts are as they were.
    assert len(run_lifecycle(hyper).compressed) >= 1
    assert server.execute(counted).fetchall() == before
    assert erase(hyper, "user-1").counts == {}


def test_a_late_event_is_added_to_what_is_stored_of_a_dropped_chunk(
    hyper: Settings, server: psycopg.Connection
) -> None:
    def roll_up_windows() -> None:
        while stale := stale_windows(server, time_zone=hyper.timezone, now=NOW):
            for one in stale:
                replace_window(server, one.window, settings=hyper, now=NOW)

    store_events(server, hyper, day(40), {}, {}, {})
    roll_up_windows()
    short = hyper.model_copy(update={"retention_days": 30})
    assert [moved.table for moved in run_lifecycle(short, now=NOW).dropped] == [EVENT_TABLE]
    counts = server.execute(f"select sum(requests) from {COUNTS}").fetchall()
    for number in (1, 2):
        store_events(server, hyper, day(40), {})
        roll_up_windows()
        for table in ("usage_hourly", "usage_daily"):
            assert server.execute(f"select sum(requests) from analytics.{table}").fetchall() == [(3 + number,)]
        run_lifecycle(short, now=NOW)
        assert count_of(server, EVENT_TABLE) == 0
        assert server.execute(f"select sum(requests) from {COUNTS}").fetchall() == counts
