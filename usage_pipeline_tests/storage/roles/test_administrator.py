"""An administrator who is no superuser, as managed servers have: the script prepares everything, also twice and half-way."""

import logging
import subprocess
from collections.abc import Iterator
from contextlib import closing

import psycopg
import pytest

from usage_pipeline.local.servers.postgres import RunningPostgres, start_postgres, stop_postgres
from usage_pipeline.settings import load_settings
from usage_pipeline.storage.migrations import migrate
from usage_pipeline.storage.postgres import connect
from usage_pipeline.storage.roles.grants import API_ROLE, DRAIN_ROLE
from usage_pipeline_tests.rigs.deployment_files import DEPLOY
from usage_pipeline_tests.rigs.places import servers_folder
from usage_pipeline_tests.storage.roles.prepared_server import OWNER, PreparedServer, prepare_server

BOSS = "boss"
# What a run that failed may have left; each is that of a server of its own.
HALF_WAY = {
    "nothing": "",
    "some roles": "create role usage_pipeline nologin; create role usage_api",
    "one database": "create role usage_pipeline; create role dagster; grant usage_pipeline to boss; "
    "create database usage owner usage_pipeline",
}


@pytest.fixture(params=HALF_WAY.items(), ids=HALF_WAY)
def managed(request: pytest.FixtureRequest) -> Iterator[RunningPostgres]:
    """A server whose administrator may make databases and roles, and nothing else."""
    with servers_folder() as folder:
        try:
            running = start_postgres(folder / "postgres", durable=False)
            with psycopg.connect(running.url("postgres"), autocommit=True) as superuser:
                superuser.execute(f"create role {BOSS} login createdb createrole")
            url = running.url("postgres").replace("//postgres:@", f"//{BOSS}:@")
            with psycopg.connect(url, autocommit=True) as boss:
                for statement in filter(None, request.param[1].split("; ")):
                    boss.execute(statement)
            yield running
        finally:
            stop_postgres(folder / "postgres")


def owners(server: RunningPostgres) -> list[tuple[str, str]]:
    with psycopg.connect(server.url("postgres")) as connection:
        return connection.execute(
            "select datname, pg_get_userbyid(datdba) from pg_database where datname in ('usage', 'dagster') order by 1"
        ).fetchall()


def test_the_script_prepares_a_managed_server_and_may_run_again(
    managed: RunningPostgres, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        server = prepare_server(managed, BOSS)
        assert owners(managed) == [("dagster", "dagster"), ("usage", "usage_pipeline")]
    with caplog.at_level(logging.WARNING):
        migrate(server.url(OWNER))
    [warning] = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert "let an administrator run what docs/analysts.md has" in warning, "the administrator counts as no analyst"
    for role in (API_ROLE, DRAIN_ROLE, OWNER):
        connect(load_settings(database_url=server.url(role))).close()
    refuses(server, API_ROLE, "dagster")
    refuses(server, "dagster", "usage")
    prepare_server(managed, BOSS)
    with closing(connect(load_settings(database_url=server.url(OWNER)))) as connection:
        assert connection.execute("select count(*) from usage.api_keys").fetchall() == [(0,)]


def refuses(server: PreparedServer, role: str, database: str) -> None:
    with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
        psycopg.connect(server.url(role, database))


def test_without_a_password_for_each_role_nothing_is_made() -> None:
    script = DEPLOY / "postgres" / "create_databases.sh"
    environment = {"PATH": "/usr/bin:/bin", "USAGE_DB_PASSWORD": "x", "USAGE_API_DB_PASSWORD": "x"}
    done = subprocess.run([script], env=environment, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert "USAGE_DRAIN_DB_PASSWORD" in done.stderr
