"""PgBouncer in session mode is as good as the server itself; in the other modes it is refused, in one line that says why."""

import json
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import psycopg
import pytest
import redis

from usage_pipeline.drain.rounds import DrainImpossible, drain_once
from usage_pipeline.history.storage import connect_storage, expect_known_storage
from usage_pipeline.local.servers.both import LocalServers
from usage_pipeline.rollups.calendar import day_window
from usage_pipeline.rollups.windows import replace_window
from usage_pipeline.settings import Settings, load_settings
from usage_pipeline.storage import postgres as module
from usage_pipeline.storage.migrations import migrate
from usage_pipeline.storage.postgres import PostgresUnavailable, connect
from usage_pipeline_tests.rigs.commands import run_command
from usage_pipeline_tests.rigs.events import event
from usage_pipeline_tests.rigs.history import History, open_history
from usage_pipeline_tests.rigs.service import EVENTS_PATH, new_token, serving
from usage_pipeline_tests.storage.connecting.pgbouncer import pgbouncer, through

SHARING = r"expected a session of our own, .* pool_mode = session"


@pytest.fixture(params=["session"])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def pooled(servers: LocalServers, settings: Settings, mode: str) -> Iterator[Settings]:
    with pgbouncer(servers.postgres, mode) as port:
        url = through(port, settings.database_url.get_secret_value())
        yield load_settings(database_url=url, redis_url=settings.redis_dsn.get_secret_value())


def test_session_mode_migrates_drains_rolls_up_and_serves(
    pooled: Settings, postgres: psycopg.Connection, redis_client: redis.Redis
) -> None:
    url = pooled.database_url.get_secret_value()
    assert migrate(url, time_zone="UTC")
    redis_client.hset("apikey:key:metrics", "total_requests", 3)
    drain_once(pooled)
    assert postgres.execute("select total_requests from usage.api_keys").fetchall() == [(3,)]
    at = datetime.now(UTC)
    day = day_window(at.date(), pooled.timezone)
    with serving(pooled) as service:
        assert service.client.get("/healthz").json()["database"] == "up"
        client = service.with_token(new_token(postgres, "ingest", "read"))
        sent = [event(event_time=at.isoformat(), team="search") for _ in range(3)]
        answer = client.post(EVENTS_PATH, json=sent)
        assert (answer.status_code, answer.json()["inserted"]) == (200, 3)
        assert "usage_pipeline_up" in service.client.get("/metrics").text
        with closing(connect(pooled)) as connection:
            replace_window(connection, day, settings=pooled)
        asked = {"from": str(at.date()), "to": str(at.date()), "grain": "total", "group_by": "team"}
        explored = client.get("/api/usage/explore", params=asked).json()
    assert [(item["team"], item["requests"]) for item in explored["items"]] == [("search", 3)]


def test_what_our_sessions_rely_on_holds_in_session_mode(pooled: Settings, postgres: psycopg.Connection) -> None:
    postgres.execute(f"alter database {postgres.info.dbname} set default_transaction_isolation = serializable")
    with closing(connect(pooled, statement_seconds=7)) as connection:
        assert connection.info.backend_pid != connection.execute("select pg_backend_pid()").fetchall()[0][0], "pooled"
        for name, value in {
            "lock_timeout": "5min",
            "statement_timeout": "7s",
            "default_transaction_isolation": "read committed",
            "timezone": "UTC",
        }.items():
            assert connection.execute("select current_setting(%s)", (name,)).fetchall() == [(value,)]


def test_a_setting_that_does_not_hold_is_refused(pooled: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    load = module.load

    def as_another_session(name: str) -> str:
        return (
            "select name, 'another', pg_backend_pid() from unnest(%(names)s::text[]) as name"
            if "select_session" in name
            else load(name)
        )

    monkeypatch.setattr(module, "load", as_another_session)
    with pytest.raises(
        PostgresUnavailable,
        match=r"expected the session to keep \w+ = .*, came another",
    ):
        connect(pooled)


@pytest.mark.parametrize("mode", ["transaction", "statement"], indirect=True)
def test_sharing_modes_are_refused_everywhere_in_one_line(
    pooled: Settings, redis_client: redis.Redis, postgres: psycopg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(PostgresUnavailable, match=SHARING):
        connect(pooled)
    with pytest.raises(PostgresUnavailable, match=SHARING):
        migrate(pooled.database_url.get_secret_value())
    redis_client.hset("apikey:key:metrics", "total_requests", 3)
    with pytest.raises(DrainImpossible, match=SHARING):
        drain_once(pooled)
    assert redis_client.hgetall("apikey:key:metrics") == {b"total_requests": b"3"}, "not even claimed"
    for command in (["migrate"], ["drain", "--once"], ["archive", "list"]):
        done = run_command(pooled, *command)
        assert done.returncode == 2, command
        [line] = done.stderr.splitlines()
        assert "pool_mode = session" in line, command
    with serving(pooled) as service:
        health = service.client.get("/healthz")
        assert (health.status_code, health.json()["database"]) == (503, "down")
        client = service.with_token(new_token(postgres, "ingest"))
        assert client.post(EVENTS_PATH, json=[]).status_code == 503
    assert [record for record in caplog.records if "health" in record.message and "pool_mode" in record.message]


@pytest.mark.parametrize("more", ["server_round_robin = 1", "server_round_robin = 1\nmin_pool_size = 5"])
@pytest.mark.parametrize("mode", ["transaction"], indirect=True)
def test_sharing_is_seen_also_where_servers_take_turns(
    servers: LocalServers, settings: Settings, more: str, mode: str
) -> None:
    with pgbouncer(servers.postgres, mode, more) as port:
        url = through(port, settings.database_url.get_secret_value())
        with pytest.raises(PostgresUnavailable, match=SHARING):
            connect(load_settings(database_url=url))


def test_a_pool_of_one_server_in_session_mode_is_not_taken_for_a_shared_one(
    servers: LocalServers, settings: Settings
) -> None:
    """There is no second server to compare with: the look for one gives up, and nothing is held against the pooler."""
    with pgbouncer(servers.postgres, "session", "default_pool_size = 1") as port:
        changed = load_settings(
            database_url=through(port, settings.database_url.get_secret_value()), connect_timeout_seconds=2
        )
        with closing(connect(changed)) as connection:
            assert connection.execute("show timezone").fetchall() == [("UTC",)]
            with pytest.raises(PostgresUnavailable, match=r"no answer within 2 s"):
                connect(changed)


def test_a_pooler_that_is_changed_under_us_is_seen_by_the_next_connection(
    servers: LocalServers, settings: Settings
) -> None:
    url = settings.database_url.get_secret_value()
    with pgbouncer(servers.postgres, "session", "server_reset_query =") as port:
        changed = load_settings(database_url=through(port, url))
        connect(changed).close()
        with pytest.raises(PostgresUnavailable, match=SHARING):
            connect(changed)


def test_dagsters_storage_and_its_pruning_work_in_session_mode(servers: LocalServers, tmp_path: Path) -> None:
    with open_history(servers, tmp_path / "home") as history, pgbouncer(servers.postgres, "session") as port:
        url = through(port, history.storage_url)
        storage = {"postgres_url": url.replace("postgresql://", "postgresql+psycopg2://")}
        home = tmp_path / "pooled"
        home.mkdir()
        (home / "dagster.yaml").write_text(
            json.dumps({"storage": {"postgres": storage}, "telemetry": {"enabled": False}})
        )
        with dg.DagsterInstance.from_config(str(home)) as instance:
            run_id = History(instance, history.connection, url).run("plain")
            assert instance.get_run_by_id(run_id) is not None
        with closing(connect_storage(load_settings(dagster_postgres_url=url))) as connection:
            expect_known_storage(connection, run_id)
