"""What PostgreSQL opens to everybody is closed by whoever may close it; who may not is told, and what to do is told rightly."""

import logging
import re
import subprocess
import uuid
from collections.abc import Iterator

import psycopg
import pytest

from usage_pipeline.storage.migrations import migrate
from usage_pipeline_tests.rigs.places import DOCS
from usage_pipeline_tests.storage.roles.prepared_server import OWNER, PreparedServer, prepare_server, programs_of

ANYBODY = "anybody"
COUNT_OPEN = """
    select count(*)
    from pg_proc, aclexplode(coalesce(proacl, acldefault('f', proowner))) as granted
    where pronamespace = 'pg_catalog'::regnamespace
      and granted.grantee = 0
      and (proname ~ 'advisory.*_lock' or proname ~ '^lo_' or proname in ('loread', 'lowrite', 'pg_logical_emit_message'))
"""


@pytest.fixture
def other_database(prepared: PreparedServer) -> Iterator[str]:
    """A database of the owner, with all that PostgreSQL opens by itself."""
    name = f"other_{uuid.uuid4().hex}"
    with psycopg.connect(prepared.postgres.url("postgres"), autocommit=True) as administrator:
        administrator.execute(f"create database {name} owner {OWNER} template template0")
        yield name
        administrator.execute(f"drop database {name} with (force)")


def count_open(prepared: PreparedServer, database: str) -> int:
    with psycopg.connect(prepared.postgres.url(database)) as connection:
        [(count,)] = connection.execute(COUNT_OPEN).fetchall()
    return int(count)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_the_owner_may_not_close_functions_and_says_so_until_an_administrator_did(
    prepared: PreparedServer, other_database: str, caplog: pytest.LogCaptureFixture
) -> None:
    url = prepared.url(OWNER, other_database)
    with caplog.at_level(logging.WARNING):
        migrate(url)
    [warning] = [text for text in warnings(caplog) if "can stop the pipeline" in text]
    assert "lo_close(integer), lo_creat(integer)" in warning
    assert "temporary tables" not in warning, "these the owner of the database has closed"
    heading = re.findall(r'has under "(.*?)"', warning)
    page = (DOCS / "analysts.md").read_text(encoding="utf-8")
    assert f"**{heading[0]}.**" in page
    [documented] = re.findall(r"```sql\n(select format.*?)```", page, re.DOTALL)
    psql = [str(programs_of(prepared.postgres) / "psql"), "--no-psqlrc", "--set", "ON_ERROR_STOP=1"]
    address = prepared.postgres.url(other_database)
    subprocess.run([*psql, address], input=documented, text=True, check=True, capture_output=True, timeout=60)
    assert count_open(prepared, other_database) == 0
    caplog.clear()
    migrate(url)
    assert warnings(caplog) == []


def test_a_superuser_closes_everything_by_migrating(prepared: PreparedServer, other_database: str) -> None:
    assert count_open(prepared, other_database) > 30
    migrate(prepared.postgres.url(other_database))
    assert count_open(prepared, other_database) == 0
    with psycopg.connect(prepared.postgres.url(other_database)) as connection:
        asked = connection.execute(
            "select has_database_privilege('public', current_database(), 'temporary'),"
            " has_schema_privilege('public', 'public', 'create')"
        )
        assert asked.fetchall() == [(False, False)]


def test_who_has_tables_in_the_schema_public_goes_on_making_them(prepared: PreparedServer, other_database: str) -> None:
    """As PostgreSQL 14 has it, with Dagster in the same database."""
    with psycopg.connect(prepared.postgres.url(other_database), autocommit=True) as administrator:
        administrator.execute("grant create on schema public to public")
        administrator.execute("create table public.runs (id bigint)")
        administrator.execute("alter table public.runs owner to dagster")
        migrate(prepared.postgres.url(other_database))
        may = "select has_schema_privilege(%s, 'public', 'create')"
        found = {role: administrator.execute(may, (role,)).fetchone() for role in ("dagster", "usage_analyst")}
    assert found == {"dagster": (True,), "usage_analyst": (False,)}


@pytest.mark.parametrize("role", ["usage_api", "usage_drain"])
def test_the_first_migration_leaves_the_keys_with_the_processes(
    role: str, prepared: PreparedServer, other_database: str
) -> None:
    migrate(prepared.postgres.url(other_database))
    with psycopg.connect(prepared.url(role, other_database)) as connection:
        connection.execute("select pg_advisory_xact_lock(1)")
        connection.execute("create temporary table mine (note text)")


def test_an_analyst_without_limits_is_named(prepared: PreparedServer, caplog: pytest.LogCaptureFixture) -> None:
    with psycopg.connect(prepared.postgres.url("postgres"), autocommit=True) as administrator:
        administrator.execute(f"create role {ANYBODY} login in role usage_analyst")
        administrator.execute(f"grant connect on database dagster to {ANYBODY}")
        try:
            with caplog.at_level(logging.WARNING):
                migrate(prepared.url(OWNER))
        finally:
            administrator.execute(f"drop owned by {ANYBODY}")
            administrator.execute(f"drop role {ANYBODY}")
    found = [text for text in warnings(caplog) if ANYBODY in text]
    assert [re.sub(rf".*{ANYBODY} (.*) \(docs.*", r"\1", text) for text in found] == [
        "can fill the disk by the log of the server, has no log_min_messages",
        "has no connection limit",
        "has no statement_timeout",
        "may connect to the database dagster, where it can fill the lock table of the server",
    ]


def test_the_script_may_run_again(prepared: PreparedServer, caplog: pytest.LogCaptureFixture) -> None:
    with psycopg.connect(prepared.url(OWNER)) as connection:
        [before] = connection.execute("select count(*) from pg_class where relnamespace = 'ops'::regnamespace")
    prepare_server(prepared.postgres)
    with caplog.at_level(logging.WARNING):
        migrate(prepared.url(OWNER))
    assert warnings(caplog) == []
    assert count_open(prepared, "usage") == 0
    with psycopg.connect(prepared.url(OWNER)) as connection:
        assert (
            connection.execute("select count(*) from pg_class where relnamespace = 'ops'::regnamespace").fetchone()
            == before
        )
