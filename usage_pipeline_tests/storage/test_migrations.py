"""Migrations: safe to repeat and to run at once; every table and column is explained."""

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from psycopg import sql

from usage_pipeline.local.servers.both import LocalServers
from usage_pipeline.local.servers.postgres import create_database
from usage_pipeline.storage.migrations import migrate
from usage_pipeline.storage.postgres import PostgresUnavailable
from usage_pipeline_tests.rigs.waiting import wait_until

SCHEMAS = ["app", "raw", "usage", "analytics", "stats", "reporting", "ops"]


@pytest.fixture
def empty_database_url(servers: LocalServers) -> Iterator[str]:
    name = f"empty_{uuid.uuid4().hex}"
    create_database(servers.postgres, name)
    yield servers.postgres.url(name)
    with psycopg.connect(servers.postgres.url("postgres"), autocommit=True) as connection:
        connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


def tables(url: str) -> list[tuple[str, ...]]:
    with psycopg.connect(url) as connection:
        return connection.execute(
            "select schemaname, tablename from pg_tables where schemaname = any(%s) order by 1, 2", (SCHEMAS,)
        ).fetchall()


def test_a_second_migration_changes_nothing(empty_database_url: str) -> None:
    version = migrate(empty_database_url)
    first = tables(empty_database_url)
    assert ("usage", "api_keys") in first
    assert migrate(empty_database_url) == version != "none"
    assert tables(empty_database_url) == first


def test_two_processes_at_once_migrate_once(empty_database_url: str) -> None:
    code = "import sys; from usage_pipeline.storage.migrations import migrate; print(migrate(sys.argv[1]))"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, empty_database_url],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=dict(os.environ),
        )
        for _ in range(2)
    ]
    answers = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], answers
    assert len({version for version, _ in answers}) == 1
    assert ("ops", "sync_batches") in tables(empty_database_url)


def test_a_limit_of_the_role_does_not_end_a_migration_that_takes_or_waits_longer(
    database_url: str, postgres: psycopg.Connection
) -> None:
    postgres.execute(
        sql.SQL("alter database {} set statement_timeout = '500ms'").format(sql.Identifier(postgres.info.dbname))
    )
    waiting = """
        select from pg_stat_activity
        where wait_event = 'advisory' and datname = current_database() and clock_timestamp() > query_start + interval '700 ms'
    """
    # As another process does that migrates.
    postgres.execute("select pg_advisory_lock(7120001)")
    with ThreadPoolExecutor(1) as threads:
        migrated = threads.submit(migrate, database_url)
        try:
            wait_until(lambda: migrated.done() or postgres.execute(waiting).fetchall(), "it waits beyond the limit", 30)
        finally:
            postgres.execute("select pg_advisory_unlock(7120001)")
        assert migrated.result(60) != "none"


def test_a_schema_of_a_newer_version_is_refused_in_one_line(database_url: str, postgres: psycopg.Connection) -> None:
    postgres.execute("update public.usage_pipeline_version set version_num = '9999'")
    with pytest.raises(
        PostgresUnavailable, match=r"does not know \(.*9999.*\); it is of a newer usage-pipeline"
    ) as problem:
        migrate(database_url)
    assert "\n" not in str(problem.value)


def test_every_schema_table_and_column_is_explained(postgres: psycopg.Connection) -> None:
    silent = """
        select nspname, null, null from pg_namespace
        where nspname = any(%(schemas)s) and obj_description(oid, 'pg_namespace') is null
        union all
        select nspname, relname, attname
        from pg_class
        join pg_namespace on pg_namespace.oid = relnamespace
        left join pg_attribute on attrelid = pg_class.oid and attnum > 0 and not attisdropped
        where nspname = any(%(schemas)s)
          and relkind in ('r', 'p', 'v', 'm')
          and not relispartition
          and (obj_description(pg_class.oid, 'pg_class') is null or col_description(attrelid, attnum) is null)
    """
    assert postgres.execute(silent, {"schemas": SCHEMAS}).fetchall() == []
    assert {row[0] for row in postgres.execute("select nspname from pg_namespace")} >= set(SCHEMAS)


@pytest.mark.parametrize(
    "table", ["usage.api_keys", "usage.provider_usage", "usage.api_access_tokens", "usage.merchant_usage"]
)
def test_running_totals_leave_room_to_be_updated_in_place(table: str, postgres: psycopg.Connection) -> None:
    [(options,)] = postgres.execute(
        "select reloptions from pg_class where oid = %s::text::regclass", (table,)
    ).fetchall()
    assert options == ["fillfactor=70"]


def test_totals_are_updated_in_place(postgres: psycopg.Connection) -> None:
    """HOT needs room on the page and no index on what changes."""
    counts = "pg_stat_get_xact_tuples_updated(oid), pg_stat_get_xact_tuples_hot_updated(oid)"
    postgres.execute("insert into usage.api_keys (api_key_id) select n::text from generate_series(1, 2000) n")
    with postgres.transaction():
        postgres.execute(
            "update usage.api_keys set total_requests = 1, updated_at = now() where api_key_id like %s", ("%7",)
        )
        [(updated, hot)] = postgres.execute(
            f"select {counts} from pg_class where oid = 'usage.api_keys'::regclass"
        ).fetchall()
    assert (updated, hot) == (200, 200)
