"""What a URL may say: several hosts, of which the primary is taken, and options of the session, to which ours are added."""

from collections.abc import Callable
from contextlib import closing
from urllib.parse import quote, urlsplit

import psycopg
import pytest
import redis
import sqlalchemy

from usage_pipeline.drain.rounds import drain_once
from usage_pipeline.history.storage import connect_storage
from usage_pipeline.local.processes.dagster import for_dagster
from usage_pipeline.local.servers.both import LocalServers
from usage_pipeline.local.servers.ports import free_port
from usage_pipeline.local.servers.postgres import create_database, start_postgres, stop_postgres
from usage_pipeline.settings import Settings, load_settings
from usage_pipeline.storage.postgres import connect
from usage_pipeline_tests.rigs.commands import run_command
from usage_pipeline_tests.rigs.places import servers_folder
from usage_pipeline_tests.rigs.service import serving


@pytest.fixture
def hosts(servers: LocalServers, database_url: str) -> Callable[[str], str]:
    """A URL in which a host that nobody serves comes before the server; `form` says how they are written."""
    folder, name = quote(str(servers.postgres.socket_folder), safe=""), urlsplit(database_url).path

    def make(form: str) -> str:
        return form.format(dead=f"127.0.0.1:{free_port()}", folder=folder, name=name)

    return make


FORMS = [
    "postgresql://postgres@{dead},{folder}:5432{name}",
    "postgresql://postgres@{dead},{folder}:5432{name}?target_session_attrs=primary",
]


@pytest.mark.parametrize("form", FORMS)
def test_several_hosts_are_tried_by_every_process(
    form: str, hosts: Callable[[str], str], settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    many = load_settings(database_url=hosts(form), redis_url=settings.redis_dsn.get_secret_value())
    for command in (["migrate"], ["archive", "list"]):
        done = run_command(many, *command)
        assert done.returncode == 0, done.stderr
    redis_client.hset("apikey:key:metrics", "total_requests", 3)
    drain_once(many)
    assert postgres.execute("select total_requests from usage.api_keys").fetchall() == [(3,)]
    with serving(many) as service:
        assert service.client.get("/healthz").json()["database"] == "up"


def test_a_host_that_may_not_be_written_to_is_passed_over(
    servers: LocalServers, settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    """As a standby is: the drain and the service find the primary behind it."""
    with servers_folder() as folder:
        try:
            other = start_postgres(folder / "postgres", durable=False)
            create_database(other, postgres.info.dbname)
            with psycopg.connect(other.url("postgres"), autocommit=True) as administrator:
                administrator.execute("alter system set default_transaction_read_only = on")
                administrator.execute("select pg_reload_conf()")
            places = ",".join(quote(str(each.socket_folder), safe="") for each in (other, servers.postgres))
            url = f"postgresql://postgres@{places}/{postgres.info.dbname}"
            many = load_settings(database_url=url, redis_url=settings.redis_dsn.get_secret_value())
            redis_client.hset("apikey:key:metrics", "total_requests", 3)
            drain_once(many)
            assert postgres.execute("select total_requests from usage.api_keys").fetchall() == [(3,)]
            with serving(many) as service:
                assert service.client.get("/healthz").json()["database"] == "up"
        finally:
            stop_postgres(folder / "postgres")


def test_dagster_gets_several_hosts_as_its_library_reads_them(hosts: Callable[[str], str]) -> None:
    url = for_dagster(hosts(FORMS[0]))
    engine = sqlalchemy.create_engine(url)
    with engine.connect() as connection:
        assert connection.execute(sqlalchemy.text("select 1")).scalar() == 1
    engine.dispose()
    # What Dagster reads is what the pruning of its history gets, too.
    with closing(connect_storage(load_settings(dagster_postgres_url=url))) as connection:
        assert connection.execute("select 1").fetchall() == [(1,)]


@pytest.mark.parametrize(
    ("form", "read"),
    [
        (
            "postgresql://u:p@h1:5432,h2:6543/db?sslmode=disable",
            "postgresql+psycopg2://u:p@/db?sslmode=disable&host=h1%2Ch2&port=5432%2C6543",
        ),
        ("postgresql://u@h1,h2:6543/db", "postgresql+psycopg2://u@/db?host=h1%2Ch2&port=5432%2C6543"),
        ("postgresql://[::1]:1,h2/db", "postgresql+psycopg2:///db?host=%3A%3A1%2Ch2&port=1%2C5432"),
        ("postgresql://u@h1:6543/db", "postgresql+psycopg2://u@h1:6543/db"),
    ],
)
def test_hosts_of_dagsters_url_are_those_that_libpq_reads(form: str, read: str) -> None:
    assert for_dagster(form) == read


def with_options(url: str, options: str) -> str:
    return f"{url}{'&' if urlsplit(url).query else '?'}options={quote(options, safe='')}"


def test_options_of_both_urls_stay(database_url: str, postgres: psycopg.Connection) -> None:
    postgres.execute("create schema dagster")
    url = with_options(database_url, "-c search_path=dagster -c statement_timeout=11min -c timezone=Asia/Tokyo")
    both = load_settings(database_url=url, dagster_postgres_url=url)
    for opened in (connect, connect_storage):
        with closing(opened(both)) as connection:
            shown = [connection.execute(f"show {name}").fetchall() for name in ("search_path", "statement_timeout")]
            assert shown == [[("dagster",)], [("11min",)]]
            assert connection.execute("show timezone").fetchall() == [("UTC",)], "what we rely on is ours"
