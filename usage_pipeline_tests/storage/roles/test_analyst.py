"""The role usage_analyst reads every view of `reporting` and nothing else, whatever way it tries."""

import logging
import re
import uuid
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from usage_pipeline.local.servers.both import LocalServers
from usage_pipeline.local.servers.postgres import create_database
from usage_pipeline.storage.migrations import migrate
from usage_pipeline_tests.rigs.places import DOCS

ROLE = "usage_analyst"
PAGE = DOCS / "analysts.md"
SCHEMAS = ["app", "raw", "usage", "analytics", "stats", "reporting", "ops", "public"]
RELATIONS = """
    select relkind, nspname, relname
    from pg_class
    join pg_namespace on pg_namespace.oid = relnamespace
    where nspname = any(%s)
      and relkind in ('r', 'p', 'v', 'm', 'f', 'S')
    order by nspname, relname
"""
FUNCTIONS = """
    select pg_proc.oid::regprocedure::text, prosecdef
    from pg_proc
    join pg_namespace on pg_namespace.oid = pronamespace
    where nspname = any(%s)
    order by 1
"""
# What an attacker would look for first, with rows in each.
SECRETS = """
    insert into usage.api_access_tokens (token_id, token_prefix, token_hash, name) values ('t', 'up_secret', 'hash', 'n');
    insert into analytics.message_archive_ids select gen_random_uuid(), '' where false;
    insert into app.issues (id, title, status) values ('1', 'An issue', 'OPEN');
"""


@pytest.fixture
def analyst(postgres: psycopg.Connection) -> Iterator[psycopg.Connection]:
    """A session of the owner that became the role, in a database with some rows."""
    postgres.execute(SECRETS)
    postgres.execute(f"set role {ROLE}")
    yield postgres
    postgres.execute("reset role")


@pytest.fixture
def login_url(servers: LocalServers, database_url: str) -> Iterator[str]:
    """The database as a person sees it who was given the role as docs/analysts.md says."""
    name = f"analyst_{uuid.uuid4().hex}"
    [documented] = re.findall(r"```sql\n(create role .*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    with psycopg.connect(servers.postgres.url("postgres"), autocommit=True) as connection:
        connection.execute(re.sub(r"\bana\b", name, documented).replace("…", "secret"))
        yield database_url.replace("postgres:@", f"{name}:secret@")
        connection.execute(f"drop role {name}")


def refused(connection: psycopg.Connection, statement: str) -> bool:
    try:
        connection.execute(statement)
    except psycopg.errors.InsufficientPrivilege:
        return True
    return False


def quoted(schema: str, name: str) -> str:
    return sql.Identifier(schema, name).as_string(None)


def check_what_is_read_and_what_is_refused(connection: psycopg.Connection) -> None:
    relations = connection.execute(RELATIONS, (SCHEMAS,)).fetchall()
    views = {name for _, schema, name in relations if schema == "reporting"}
    assert {"usage_by_team", "usage_by_hour", "api_key_activity", "issue_flow", "late_corrections"} <= views
    assert len(relations) > 60
    for kind, schema, name in relations:
        if schema == "reporting":
            assert kind == "v"
            connection.execute(f"select * from {quoted(schema, name)}").fetchall()
            continue
        read = "select last_value from" if kind == "S" else "select 1 from"
        assert refused(connection, f"{read} {quoted(schema, name)}"), f"{schema}.{name} can be read"
    for what in ("prompt", "extra"):
        assert refused(connection, f"select {what} from analytics.usage_events")
    assert refused(connection, "select token_prefix, token_hash from usage.api_access_tokens")
    for read in ("raw.api_key_deltas", "raw.request_events", "analytics.message_archives", "ops.dead_letters"):
        assert refused(connection, f"copy {read} to stdout")
    for read in ("pg_read_file('PG_VERSION')", "pg_ls_dir('.')", "lo_export(1, '/dev/null')"):
        assert refused(connection, f"select {read}")
    assert refused(connection, "copy reporting.usage_by_team to program 'true'")
    assert refused(connection, "select rolpassword from pg_authid")


def test_it_reads_every_view_and_no_table(analyst: psycopg.Connection) -> None:
    check_what_is_read_and_what_is_refused(analyst)


def test_a_person_with_the_role_reads_every_view_and_no_table(login_url: str) -> None:
    with psycopg.connect(login_url, autocommit=True) as connection:
        assert connection.execute("select session_user = current_user").fetchone() == (True,)
        check_what_is_read_and_what_is_refused(connection)
        assert connection.execute("show statement_timeout").fetchone() == ("5min",)
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            connection.execute("create temporary table notes (note text)")


def test_none_of_our_functions_can_be_called(analyst: psycopg.Connection) -> None:
    functions = [name for name, _ in analyst.execute(FUNCTIONS, (SCHEMAS,)).fetchall()]
    assert "analytics.changed_hours()" in functions
    assert "analytics.roll_up_events(timestamp with time zone,timestamp with time zone,text)" in functions
    for function in functions:
        name, _, arguments = function.removesuffix(")").partition("(")
        nulls = ", ".join(f"null::{type_name}" for type_name in arguments.split(",") if type_name)
        assert refused(analyst, f"select {name}({nulls})"), f"{function} can be called"


def test_what_runs_with_the_owners_rights_is_these_functions_and_triggers_and_not_for_everyone(
    postgres: psycopg.Connection,
) -> None:
    definers = [name for name, is_definer in postgres.execute(FUNCTIONS, (SCHEMAS,)) if is_definer]
    # Triggers on tables that applications write. Nobody else may put them on a table of his own.
    triggers = postgres.execute(
        "select oid::regprocedure::text, array(select grantee::regrole::text from aclexplode(proacl)), proconfig from pg_proc"
        " where prosecdef and prorettype = 'trigger'::regtype and pronamespace::regnamespace::text = any(%s)",
        (SCHEMAS,),
    ).fetchall()
    assert {name.partition(".")[0] for name, _, _ in triggers} == {"app", "ops"}
    for name, grantees, path in triggers:
        assert (grantees, path) == (["postgres"], ["search_path=pg_catalog, pg_temp"]), name
    assert sorted(set(definers) - {name for name, _, _ in triggers}) == [
        "analytics.changed_hours()",
        "analytics.list_prices(text,text,date)",
        "ops.accept_invitation(text,text)",
        "ops.close_session(text)",
        "ops.correct_bound_event(uuid,analytics.usage_events,bytea,text,text,timestamp with time zone,text,"
        "uuid,text[],text[],text[])",
        "ops.correct_event(uuid,analytics.usage_events,bytea,text,text,timestamp with time zone,text)",
        "ops.create_partition(text,timestamp with time zone,timestamp with time zone)",
        "ops.is_foreign(uuid,bytea,uuid,text[],text[],text[])",
        "ops.open_session(text,text,text)",
        "ops.request_costs(timestamp with time zone,timestamp with time zone,uuid[])",
        "ops.request_prompts(text,timestamp with time zone,timestamp with time zone,uuid[])",
    ]
    [(owner_only, path)] = postgres.execute(
        "select array(select grantee::regrole::text from aclexplode(proacl) order by 1), proconfig"
        " from pg_proc where oid = 'analytics.changed_hours'::regproc"
    ).fetchall()
    assert owner_only == ["postgres", ROLE]
    assert path == ["search_path=pg_catalog, pg_temp"]
    for function, callers in {
        "ops.create_partition": ["postgres", "usage_api", "usage_drain"],
        "ops.correct_event": ["postgres", "usage_api"],
        "ops.correct_bound_event": ["postgres", "usage_api"],
        "ops.is_foreign": ["postgres", "usage_api"],
        "ops.accept_invitation": ["postgres", "usage_api"],
        "ops.open_session": ["postgres", "usage_api"],
        "ops.close_session": ["postgres", "usage_api"],
    }.items():
        [(allowed, path)] = postgres.execute(
            "select array(select grantee::regrole::text from aclexplode(proacl) order by 1), proconfig"
            " from pg_proc where oid = %s::regproc",
            (function,),
        ).fetchall()
        assert allowed == callers, function
        assert "search_path=pg_catalog, pg_temp" in path, function


def test_views_do_not_ask_for_the_rights_of_who_reads_them(postgres: psycopg.Connection) -> None:
    options = postgres.execute(
        "select relname, reloptions from pg_class where relnamespace = 'reporting'::regnamespace and reloptions is not null"
    )
    assert options.fetchall() == []


def test_nothing_of_ours_is_open_to_everyone(postgres: psycopg.Connection) -> None:
    everyone = """
        select relname from pg_class, aclexplode(relacl)
        where relnamespace::regnamespace::text = any(%(schemas)s) and grantee = 0
        union all
        select nspname from pg_namespace, aclexplode(nspacl)
        where nspname = any(%(schemas)s) and nspname <> 'public' and grantee = 0
        union all
        select nspname from pg_namespace, aclexplode(nspacl)
        where nspname = 'public' and grantee = 0 and privilege_type = 'CREATE'
    """
    assert postgres.execute(everyone, {"schemas": SCHEMAS}).fetchall() == []


@pytest.mark.parametrize("schema", SCHEMAS)
def test_it_makes_nothing(schema: str, analyst: psycopg.Connection) -> None:
    assert refused(analyst, f"create table {schema}.mine (note text)")
    assert refused(analyst, f"create view {schema}.mine as select 1")
    assert refused(analyst, f"create function {schema}.mine() returns int language sql return 1")


def test_it_makes_no_schema_and_no_role_and_joins_none(analyst: psycopg.Connection) -> None:
    assert refused(analyst, "create schema mine")
    assert refused(analyst, "create role mine")
    assert refused(analyst, "grant pg_read_all_data to usage_analyst")
    assert refused(analyst, "create database mine")


def test_it_writes_through_no_view(analyst: psycopg.Connection) -> None:
    """A view over one table would take it, if it were granted."""
    updatable = analyst.execute(
        "select relname, attname from pg_class"
        " join pg_attribute on attrelid = pg_class.oid and attnum = 1"
        " where relnamespace = 'reporting'::regnamespace and pg_relation_is_updatable(pg_class.oid, true) <> 0 order by 1"
    ).fetchall()
    assert "merchant_usage_by_day" in [view for view, _ in updatable]
    for view, column in updatable:
        assert refused(analyst, f"delete from reporting.{view}")
        assert refused(analyst, f"update reporting.{view} set {column} = default")
        assert refused(analyst, f"insert into reporting.{view} default values")


def test_views_of_later_migrations_are_readable_at_once(postgres: psycopg.Connection) -> None:
    postgres.execute("create view reporting.later as select count(*) as tokens from usage.api_access_tokens")
    postgres.execute(f"set role {ROLE}")
    assert postgres.execute("select tokens from reporting.later").fetchall() == [(0,)]


def test_what_was_taken_from_the_role_comes_back_with_the_next_migration(
    postgres: psycopg.Connection, database_url: str
) -> None:
    postgres.execute(f"revoke all on schema reporting from {ROLE}; revoke all on reporting.usage_by_team from {ROLE}")
    migrate(database_url)
    postgres.execute(f"set role {ROLE}")
    assert postgres.execute("select count(*) from reporting.usage_by_team").fetchall() == [(0,)]


@pytest.fixture
def modest_url(servers: LocalServers) -> Iterator[str]:
    """An empty database whose owner may not make roles."""
    name = f"modest_{uuid.uuid4().hex}"
    create_database(servers.postgres, name)
    with psycopg.connect(servers.postgres.url("postgres"), autocommit=True) as connection:
        connection.execute(f"create role {name} login")
        connection.execute(f"alter database {name} owner to {name}")
        yield servers.postgres.url(name).replace("postgres:@", f"{name}:@")
        connection.execute(f"drop database {name} with (force)")
        connection.execute(f"drop role {name}")


def test_who_may_not_make_roles_migrates_and_grants_once_the_role_is_there(
    modest_url: str, servers: LocalServers, databases: object, caplog: pytest.LogCaptureFixture
) -> None:
    # Other databases of this server have it by now: for a moment it has another name.
    with psycopg.connect(servers.postgres.url("postgres"), autocommit=True) as administrator:
        administrator.execute(f"alter role {ROLE} rename to {ROLE}_away")
        try:
            with caplog.at_level(logging.WARNING):
                version = migrate(modest_url)
        finally:
            administrator.execute(f"alter role {ROLE}_away rename to {ROLE}")
    assert f"`create role {ROLE} nologin`" in caplog.text
    assert migrate(modest_url) == version != "none"
    database = modest_url.split("?")[0].rpartition("/")[2]
    with psycopg.connect(servers.postgres.url(database), autocommit=True) as connection:
        connection.execute(f"set role {ROLE}")
        check_what_is_read_and_what_is_refused(connection)


def test_the_time_zone_of_the_last_migration_bounds_the_day_of_the_views(
    postgres: psycopg.Connection, database_url: str
) -> None:
    query = "select time_zone, today = (now() at time zone time_zone)::date from reporting.current_day"
    assert postgres.execute(query).fetchall() == [("UTC", True)]
    migrate(database_url, time_zone="Pacific/Kiritimati")
    assert postgres.execute(query).fetchall() == [("Pacific/Kiritimati", True)]
    migrate(database_url)
    assert postgres.execute(query).fetchall() == [("Pacific/Kiritimati", True)]
