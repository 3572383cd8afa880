"""Dagster's storage and the usage tables in one database, whichever comes first; and databases of earlier versions."""

import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import psycopg
import pytest
from psycopg import sql

from usage_pipeline.history.prune import HistoryLimits, prune_history
from usage_pipeline.history.storage import connect_storage
from usage_pipeline.local.servers.both import LocalServers
from usage_pipeline.local.servers.postgres import create_database
from usage_pipeline.settings import load_settings
from usage_pipeline.storage.migrations import migrate
from usage_pipeline.storage.schema_version import is_migrated
from usage_pipeline_tests.rigs.history import History
from usage_pipeline_tests.storage.old_schema import OLD_NAME_OF_VERSIONS


@pytest.fixture
def name(servers: LocalServers) -> Iterator[str]:
    name = f"shared_{uuid.uuid4().hex}"
    create_database(servers.postgres, name)
    yield name
    with psycopg.connect(servers.postgres.url("postgres"), autocommit=True) as connection:
        connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


@pytest.fixture
def database(servers: LocalServers, name: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(servers.postgres.url(name), autocommit=True) as connection:
        yield connection


def open_dagster(servers: LocalServers, name: str, home: Path) -> dg.DagsterInstance:
    postgres = {"postgres_url": servers.postgres.url(name, driver="psycopg2")}
    home.mkdir(exist_ok=True)
    (home / "dagster.yaml").write_text(json.dumps({"storage": {"postgres": postgres}, "telemetry": {"enabled": False}}))
    return dg.DagsterInstance.from_config(str(home))


@pytest.mark.parametrize("is_ours_first", [True, False])
def test_both_work_in_one_database_and_history_is_pruned_there(
    servers: LocalServers, name: str, database: psycopg.Connection, tmp_path: Path, is_ours_first: bool
) -> None:
    url = servers.postgres.url(name)
    if is_ours_first:
        migrate(url)
    with open_dagster(servers, name, tmp_path / "home") as instance:
        version = migrate(url)
        history = History(instance, database, url)
        old = history.run("plain")
        history.age(100)
        new = history.run("plain")
        settings = load_settings(database_url=url, dagster_postgres_url=url)
        with connect_storage(settings) as storage:
            limits = HistoryLimits(run_days=30, event_days=7)
            prune_history(
                storage,
                limits,
                run_id=new,
                delete_run=instance.delete_run,
                delete_logs=lambda run_id: instance.compute_log_manager.delete_logs(prefix=[run_id]),
            )
        assert [run.run_id for run in instance.get_runs()] == [new] != [old]
    # Each upgrades again, and leaves the other's alone.
    assert migrate(url) == version
    with open_dagster(servers, name, tmp_path / "home") as instance:
        instance.upgrade()
    assert database.execute("select version_num from public.usage_pipeline_version").fetchall() == [(version,)]
    assert database.execute("select version_num from public.alembic_version").fetchall() == [("29b539ebc72a",)]


def test_our_table_of_versions_gets_its_own_name_once(
    servers: LocalServers, name: str, database: psycopg.Connection, tmp_path: Path
) -> None:
    url = servers.postgres.url(name)
    version = migrate(url)
    database.execute(OLD_NAME_OF_VERSIONS)
    assert is_migrated(database)
    assert migrate(url) == version
    assert database.execute("select version_num from public.usage_pipeline_version").fetchall() == [(version,)]
    assert database.execute("select to_regclass('public.alembic_version')").fetchall() == [(None,)]
    with open_dagster(servers, name, tmp_path / "home") as instance:
        assert instance.get_runs() == []
    assert migrate(url) == version


@pytest.mark.parametrize("versions", [["29b539ebc72a"], [], ["0039", "29b539ebc72a"], ["2024"], ["00391"]])
def test_a_table_of_versions_that_is_not_ours_stays_as_it_is(
    servers: LocalServers, name: str, database: psycopg.Connection, versions: list[str]
) -> None:
    database.execute(
        "create table public.alembic_version (version_num text constraint alembic_version_pkc primary key)"
    )
    for version in versions:
        database.execute("insert into public.alembic_version values (%s)", (version,))
    assert not is_migrated(database)
    migrate(servers.postgres.url(name))
    left = database.execute("select version_num from public.alembic_version order by 1").fetchall()
    assert left == [(version,) for version in sorted(versions)]
