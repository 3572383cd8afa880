"""Somebody with an analyst's login wants to stop the pipeline, fill the disk, or see more. Bounded, on a server of its own."""

import logging
import re
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
import redis

from usage_pipeline.drain.rounds import drain_until_empty
from usage_pipeline.events.ingest.batches import EVENTS, ingest
from usage_pipeline.rollups.dropped.run import run_lifecycle
from usage_pipeline.settings import Settings, load_settings
from usage_pipeline.storage.migrations import migrate
from usage_pipeline.storage.postgres import PostgresUnavailable, connect
from usage_pipeline_tests.rigs.events import as_items, event
from usage_pipeline_tests.rigs.places import DOCS
from usage_pipeline_tests.rigs.waiting import wait_until
from usage_pipeline_tests.storage.roles.prepared_server import OWNER, PASSWORD, PreparedServer

ANA = "ana"
REFUSED = psycopg.errors.InsufficientPrivilege
# All that take a lock which belongs to no row and no table. Giving one back harms nobody, and drivers do it when they begin.
LOCKING = """
    select oid::regprocedure::text
    from pg_proc
    where pronamespace = 'pg_catalog'::regnamespace
      and proname like '%advisory%lock%'
      and proname not like '%unlock%'
    order by 1
"""
# All that reach large objects, which belong to no table and have no limit.
LARGE_OBJECTS = """
    select oid::regprocedure::text
    from pg_proc
    where pronamespace = 'pg_catalog'::regnamespace
      and (proname like 'lo\\_%' or proname in ('loread', 'lowrite'))
    order by 1
"""


@pytest.fixture(scope="module")
def ana_url(prepared: PreparedServer) -> str:
    """The login of somebody who was let in as docs/analysts.md says."""
    page = (DOCS / "analysts.md").read_text(encoding="utf-8")
    [documented] = re.findall(r"```sql\n(create role .*?)```", page, re.DOTALL)
    with psycopg.connect(prepared.postgres.url("usage"), autocommit=True) as administrator:
        administrator.execute(documented.replace("…", PASSWORD))
        administrator.execute(f"grant connect on database usage to {ANA}")
    return prepared.url(ANA)


@pytest.fixture
def ana(ana_url: str) -> Iterator[psycopg.Connection]:
    """A session of hers, with every setting raised that she may raise."""
    with unbounded(ana_url) as connection:
        yield connection


def unbounded(url: str) -> psycopg.Connection:
    connection = psycopg.connect(url, autocommit=True)
    for name in ("statement_timeout", "idle_in_transaction_session_timeout", "lock_timeout", "idle_session_timeout"):
        connection.execute(f"set {name} = 0")
    connection.execute("set default_transaction_read_only = off")
    return connection


@pytest.fixture
def settings(prepared: PreparedServer, redis_url: str) -> Settings:
    return load_settings(database_url=prepared.url(OWNER), redis_url=redis_url)


def called(signature: str) -> str:
    """With values that are not null: a strict function of a null is not called at all."""
    name, _, arguments = signature.removesuffix(")").partition("(")
    values = ", ".join(f"'1'::{kind}" for kind in arguments.split(",") if kind)
    return f"select {name}({values})"


@pytest.mark.parametrize("query", [LOCKING, LARGE_OBJECTS], ids=["advisory locks", "large objects"])
def test_what_anybody_could_stop_others_with_is_closed(query: str, ana: psycopg.Connection) -> None:
    functions = [signature for (signature,) in ana.execute(query)]
    assert len(functions) >= 16
    for signature in functions:
        with pytest.raises(REFUSED):
            ana.execute(called(signature))


def test_no_advisory_lock_keeps_a_drain_from_working(
    ana: psycopg.Connection, settings: Settings, redis_client: redis.Redis
) -> None:
    for family in ("api_key", "provider", "token", "event"):
        with pytest.raises(REFUSED):
            ana.execute("select pg_advisory_lock(hashtext('drain'), hashtext(%s))", (family,))
    redis_client.hset("apikey:locked:metrics", mapping={"total_requests": 3})
    report = drain_until_empty(settings, should_stop=threading.Event())
    assert report.is_complete
    assert not report.busy


def test_the_servers_lock_table_is_not_filled(ana: psycopg.Connection, settings: Settings) -> None:
    """It is shared by all databases: when it is full, nobody can connect."""
    with pytest.raises(REFUSED):
        ana.execute("select count(pg_advisory_lock(number)) from generate_series(1, 50000) as number")
    with closing(connect(settings)) as owner:
        assert owner.execute("select count(*) from usage.api_keys").fetchone() is not None


def test_no_other_database_has_a_door_to_the_shared_lock_table(
    prepared: PreparedServer, ana_url: str, administrator: psycopg.Connection
) -> None:
    databases = [name for (name,) in administrator.execute("select datname from pg_database where datallowconn")]
    assert {"postgres", "template1", "dagster", "usage"} <= set(databases)
    for database in set(databases) - {"usage"}:
        with pytest.raises(psycopg.OperationalError, match="permission denied"):
            psycopg.connect(prepared.url(ANA, database))


def test_the_disk_is_not_filled(ana: psycopg.Connection) -> None:
    for filling in (
        "select lo_from_bytea(0, '\\x00')",
        "create temporary table mine (note text)",
        "select 1 as one into temporary mine",
        "create table mine (note text)",
        "create table public.mine (note text)",
        "select pg_logical_emit_message(false, 'mine', 'note')",
    ):
        with pytest.raises(REFUSED):
            ana.execute(filling)
    for raising in ("set temp_file_limit = -1", f"alter role {ANA} set temp_file_limit = -1"):
        with pytest.raises(REFUSED):
            ana.execute(raising)
    [(limit,)] = ana.execute("show temp_file_limit").fetchall()
    assert limit == "1GB"


def test_the_log_of_the_server_is_not_filled(ana: psycopg.Connection, prepared: PreparedServer) -> None:
    """RAISE LOG, a plan that is printed, and a statement that fails are all lines of the log, as long as she likes."""
    for raising in ("set log_min_messages = info", f"alter role {ANA} set log_min_messages = info"):
        with pytest.raises(REFUSED):
            ana.execute(raising)
    mark = "a line of hers"
    ana.execute(f"do $$ begin raise log '{mark}'; end $$")
    ana.execute("set debug_print_plan = on")
    ana.execute(f"select '{mark}'")
    with pytest.raises(psycopg.errors.UndefinedTable):
        ana.execute(f"select '{mark}' from missing")
    with psycopg.connect(prepared.url(OWNER), autocommit=True) as owner:
        owner.execute("do $$ begin raise log 'a line of the owner'; end $$")
    log = (prepared.postgres.data_folder / "server.log").read_text(encoding="utf-8")
    assert "a line of the owner" in log
    assert mark not in log


def test_connections_are_counted(ana_url: str, administrator: psycopg.Connection) -> None:
    # Those of the tests before end a moment after they are closed.
    hers = f"select count(*) from pg_stat_activity where usename = '{ANA}'"
    wait_until(lambda: administrator.execute(hers).fetchone() == (0,), "her sessions have ended")
    with ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(psycopg.connect(ana_url))
        with pytest.raises(psycopg.OperationalError, match="too many connections for role"):
            psycopg.connect(ana_url)
        with psycopg.connect(ana_url.replace(ANA, OWNER, 1)) as owner:
            assert owner.execute("select 1").fetchone() == (1,)
    with unbounded(ana_url) as connection, pytest.raises(REFUSED):
        connection.execute(f"alter role {ANA} connection limit 1000")


def test_time_outs_are_set_at_first(ana_url: str) -> None:
    wanted = {
        "statement_timeout": "5min",
        "idle_in_transaction_session_timeout": "1min",
        "lock_timeout": "5s",
        "default_transaction_read_only": "on",
    }
    with psycopg.connect(ana_url) as connection:
        found = {name: connection.execute(f"show {name}").fetchall()[0][0] for name in wanted}
    assert found == wanted


def test_she_becomes_nobody_else_and_runs_nothing_on_the_server(ana: psycopg.Connection) -> None:
    for attempt in (
        f"set role {OWNER}",
        f"set session authorization {OWNER}",
        f"grant {OWNER} to {ANA}",
        "copy (select 1) to program 'true'",
        "copy reporting.usage_by_team to '/tmp/mine'",
        "select pg_read_file('PG_VERSION')",
        "set session_replication_role = replica",
        "load '/tmp/mine.so'",
        "create function pg_temp.mine() returns int language sql as 'select 1'",
        "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'postgres' or usename = 'usage_pipeline'",
        "select * from pg_create_physical_replication_slot('mine')",
        "select * from usage.api_access_tokens",
        "prepare mine as select * from raw.request_events",
        "lock table usage.api_keys",
        "lock table reporting.usage_by_team in exclusive mode",
        "select * from reporting.usage_by_team for update",
    ):
        with pytest.raises(REFUSED), ana.transaction():
            ana.execute(attempt)


def test_she_sees_nobody_elses_statements(ana: psycopg.Connection, administrator: psycopg.Connection) -> None:
    administrator.execute("select 'a secret of the administrator'")
    seen = ana.execute("select query from pg_stat_activity where usename <> session_user").fetchall()
    assert not [text for (text,) in seen if "secret" in (text or "")]


def test_a_flood_of_notifications_stops_nobody(
    ana: psycopg.Connection, ana_url: str, settings: Settings, redis_client: redis.Redis
) -> None:
    """The server's queue of them cannot be closed. Nothing of ours listens or notifies."""
    with unbounded(ana_url) as deaf:
        deaf.execute("listen mine")
        deaf.execute("begin")
        ana.execute(
            "select count(pg_notify('mine', number || repeat('x', 1000))) from generate_series(1, 5000) as number"
        )
        redis_client.hset("apikey:flooded:metrics", mapping={"total_requests": 4})
        assert drain_until_empty(settings, should_stop=threading.Event()).is_complete


def reading_every_view(url: str) -> psycopg.Connection:
    """A session with a transaction that stays open, and has read every view: it holds what is under them."""
    session = unbounded(url)
    views = session.execute(
        "select oid::regclass::text from pg_class where relnamespace = 'reporting'::regnamespace and relkind = 'v'"
    ).fetchall()
    assert len(views) > 15
    session.execute("begin isolation level repeatable read")
    for (view,) in views:
        session.execute(f"select * from {view}")
    return session


def test_a_drain_a_lifecycle_and_a_migration_go_on_meanwhile(
    ana_url: str, prepared: PreparedServer, settings: Settings, redis_client: redis.Redis
) -> None:
    """She has every session that she may have, and a transaction open in each."""
    now = datetime.now(UTC)
    redis_client.hset("apikey:meanwhile:metrics", mapping={"total_requests": 5})
    with ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(reading_every_view(ana_url))
        assert migrate(prepared.url(OWNER)) != "none"
        assert drain_until_empty(settings, should_stop=threading.Event()).is_complete
        with closing(connect(settings)) as owner:
            items = as_items(event(event_time=(now - timedelta(days=40)).isoformat()))
            assert ingest(owner, EVENTS, items, source="test", settings=settings, now=now).inserted == 1
            stored = "select total_requests from usage.api_keys where api_key_id = 'meanwhile'"
            assert owner.execute(stored).fetchall() == [(5,)]
        report = run_lifecycle(settings, now)
        assert not report.problems


def test_what_she_keeps_open_for_too_long_is_ended_where_the_owner_may(
    ana_url: str,
    settings: Settings,
    administrator: psycopg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    [documented] = re.findall(r"`(grant ana to usage_pipeline)`", (DOCS / "analysts.md").read_text(encoding="utf-8"))
    with reading_every_view(ana_url) as session:
        monkeypatch.setattr("usage_pipeline.storage.roles.analyst.LONGEST_TRANSACTION_SECONDS", 0.0)
        run_lifecycle(settings)
        assert session.execute("select 1").fetchone() == (1,), "the owner is not a member of her role"
        administrator.execute(documented)
        try:
            with caplog.at_level(logging.WARNING):
                run_lifecycle(settings)
        finally:
            administrator.execute(f"revoke {ANA} from {OWNER}")
        with pytest.raises(psycopg.OperationalError):
            session.execute("select 1")
    assert f"ended the session of {ANA}" in caplog.text


def test_a_migration_that_waits_for_her_lets_others_pass_and_names_her(
    ana_url: str, prepared: PreparedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """She cannot lock a table that a migration needs from the start, so somebody else does it for her."""
    monkeypatch.setattr("usage_pipeline.storage.migrations._LOCK_SECONDS", 1)
    monkeypatch.setattr("usage_pipeline.storage.migrations._TRIES", 3)
    with psycopg.connect(prepared.url(OWNER)) as holder, reading_every_view(ana_url):
        pauses = list[float]()
        monkeypatch.setattr("usage_pipeline.storage.migrations.time.sleep", pauses.append)
        holder.execute("lock table public.usage_pipeline_version in access exclusive mode")
        with pytest.raises(PostgresUnavailable, match=rf"did not get its locks in 3 tries.*\({ANA}\)"):
            migrate(prepared.url(OWNER))
        assert len(pauses) == 3

        def let_go(_: float) -> None:
            holder.rollback()

        holder.execute("lock table public.usage_pipeline_version in access exclusive mode")
        monkeypatch.setattr("usage_pipeline.storage.migrations.time.sleep", let_go)
        assert migrate(prepared.url(OWNER)) != "none"
