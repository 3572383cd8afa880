"""The core works under a role whose every default is odd: what a session relies on it sets, and the rest it works without."""

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
import redis
from psycopg import sql
from pydantic import SecretStr

from usage_pipeline.drain.rounds import DrainImpossible, drain_once
from usage_pipeline.local.servers.both import LocalServers
from usage_pipeline.local.servers.postgres import create_database
from usage_pipeline.rollups.calendar import day_window
from usage_pipeline.rollups.windows import replace_window
from usage_pipeline.settings import Settings, load_settings
from usage_pipeline.storage.migrations import migrate
from usage_pipeline.storage.postgres import PostgresUnavailable, connect
from usage_pipeline.storage.roles.grants import API_ROLE, DRAIN_ROLE
from usage_pipeline_tests.conftest import Databases
from usage_pipeline_tests.rigs.commands import run_command
from usage_pipeline_tests.rigs.events import event
from usage_pipeline_tests.rigs.service import EVENTS_PATH, new_token, serving

OWNER = "odd_owner"
NAME = "odd_usage"
# All that a user may set and that changes what a statement means, what it prints, or how it is planned.
ODD = {
    "default_transaction_isolation": "serializable",
    "default_transaction_deferrable": "on",
    "timezone": "Australia/Lord_Howe",
    "timezone_abbreviations": "Australia",
    "datestyle": "German",
    "intervalstyle": "sql_standard",
    "extra_float_digits": "-15",
    "bytea_output": "escape",
    "client_encoding": "LATIN1",
    "standard_conforming_strings": "off",
    "backslash_quote": "off",
    "array_nulls": "off",
    "transform_null_equals": "on",
    "quote_all_identifiers": "on",
    "xmloption": "document",
    "search_path": "shadow",
    "lc_numeric": "C",
    "default_text_search_config": "pg_catalog.simple",
    "synchronous_commit": "off",
    "row_security": "off",
    "check_function_bodies": "off",
    "lock_timeout": "20s",
    "statement_timeout": "60s",
    "idle_in_transaction_session_timeout": "60s",
    "idle_session_timeout": "60s",
    "client_min_messages": "debug1",
    "enable_seqscan": "off",
    "enable_indexscan": "off",
    "enable_hashjoin": "off",
    "enable_hashagg": "off",
    "enable_sort": "off",
    "enable_nestloop": "off",
    "enable_partition_pruning": "off",
    "constraint_exclusion": "off",
    "join_collapse_limit": "1",
    "from_collapse_limit": "1",
    "plan_cache_mode": "force_generic_plan",
    "jit": "on",
    "jit_above_cost": "0",
    "geqo_threshold": "2",
    "work_mem": "64kB",
    "temp_buffers": "800kB",
    "max_parallel_workers_per_gather": "8",
    "parallel_setup_cost": "0",
    "parallel_tuple_cost": "0",
    "cursor_tuple_fraction": "0",
    "default_statistics_target": "1",
}
# Names of ours and of PostgreSQL, where the search path would find them first.
SHADOW = """
    create schema shadow;
    grant all on schema shadow to public;
    create table shadow.api_keys (api_key_id int);
    create table shadow.usage_events (event_id int);
    create table shadow.usage_pipeline_version (version_num text);
    create function shadow.day_of(timestamptz, timestamptz, text) returns date language sql as 'select null::date';
"""


@pytest.fixture
def odd(servers: LocalServers, databases: Databases, redis_url: str) -> Iterator[Settings]:
    server = servers.postgres
    with psycopg.connect(server.url("postgres"), autocommit=True) as administrator:
        administrator.execute(f"create role {OWNER} login")
        create_database(server, NAME)
        administrator.execute(f"alter database {NAME} owner to {OWNER}")
        with psycopg.connect(server.url(NAME), autocommit=True) as inside:
            inside.execute(SHADOW)
        for role in (OWNER, API_ROLE, DRAIN_ROLE):
            for name, value in ODD.items():
                # A list of schemas is no text.
                written = sql.SQL(value) if name == "search_path" else sql.Literal(value)
                administrator.execute(
                    sql.SQL("alter role {} in database {} set {} = {}").format(
                        sql.Identifier(role), sql.Identifier(NAME), sql.Identifier(name), written
                    )
                )
        try:
            url = server.url(NAME).replace("//postgres:@", f"//{OWNER}:@")
            yield load_settings(database_url=url, redis_url=redis_url)
        finally:
            administrator.execute(f"drop database {NAME} with (force)")
            administrator.execute(f"drop role {OWNER}")


def as_(settings: Settings, role: str) -> Settings:
    url = settings.database_url.get_secret_value().replace(f"//{OWNER}:@", f"//{role}:@")
    return settings.model_copy(update={"database_url": SecretStr(url)})


def test_the_core_works_under_a_role_with_odd_defaults(
    odd: Settings, servers: LocalServers, redis_client: redis.Redis
) -> None:
    url = odd.database_url.get_secret_value()
    version = migrate(url, time_zone="UTC")
    assert migrate(url, time_zone="UTC") == version
    now = datetime.now(UTC)
    redis_client.hset("apikey:schlüssel\\'\u4e2d:metrics", mapping={"total_requests": 3, "total_file_size": 2**60 + 1})
    redis_client.rpush("event_queue", b"not json \\ \x00 \xff")
    drain_once(as_(odd, DRAIN_ROLE))
    drain_once(odd)
    with psycopg.connect(servers.postgres.url(NAME), autocommit=True) as postgres:
        totals = postgres.execute("select api_key_id, total_requests, total_file_size from usage.api_keys").fetchall()
        assert totals == [("schlüssel\\'\u4e2d", 3, 2**60 + 1)]
        [(raw,)] = postgres.execute("select raw from ops.dead_letters").fetchall()
        assert bytes(raw) == b"not json \\ \x00 \xff"
        with serving(odd) as service:
            client = service.with_token(new_token(postgres, "ingest", "read"))
            sent = [
                event(event_time=(now - timedelta(seconds=n)).isoformat(), team="a\\'b\u4e2d", cost_usd="0.1")
                for n in range(3)
            ]
            answer = client.post(EVENTS_PATH, json=sent)
            assert (answer.status_code, answer.json()["inserted"]) == (200, 3), answer.text
            days = {now.date(), (now - timedelta(seconds=3)).date()}
            with closing(connect(odd)) as connection:
                for day in days:
                    replace_window(connection, day_window(day, odd.timezone), settings=odd)
            asked = {
                "from": str(min(days)),
                "to": str(max(days)),
                "grain": "total",
                "group_by": "team",
                "metrics": "requests,cost_usd,latency_p95_ms",
            }
            [item] = client.get("/api/usage/explore", params=asked).json()["items"]
            assert (item["team"], item["requests"], float(item["costUsd"])) == ("a\\'b\u4e2d", 3, 0.3)
            assert service.client.get("/healthz").json()["database"] == "up"
            assert 'usage_pipeline_up{part="database"} 1' in service.client.get("/metrics").text
        assert postgres.execute("select count(*) from shadow.api_keys").fetchall() == [(0,)]
    for command in (["aggregate"], ["status"], ["dead-letters", "list"], ["alerts"], ["tokens", "list"]):
        done = run_command(odd, *command)
        assert done.returncode == 0, (command, done.stderr)


def test_a_role_that_may_only_read_is_refused_in_one_line(settings: Settings, postgres: psycopg.Connection) -> None:
    """It is how administrators and hosts of databases stop writers, when a disk is full for example: it is not undone."""
    postgres.execute(f"alter database {postgres.info.dbname} set default_transaction_read_only = on")
    with pytest.raises(PostgresUnavailable, match="session is read-only") as problem:
        connect(settings)
    assert "\n" not in str(problem.value)
    with pytest.raises(PostgresUnavailable, match="session is read-only"):
        migrate(settings.database_url.get_secret_value())
    with pytest.raises(DrainImpossible, match=r"session is read-only.*nothing is claimed"):
        drain_once(settings)
    with serving(settings) as service:
        assert service.client.get("/healthz").json()["database"] == "down"
