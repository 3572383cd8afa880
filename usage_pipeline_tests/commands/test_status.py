"""`usage-pipeline status`: how everything is, with each part that is away, on one screen; and the older form with a date."""

import json
from pathlib import Path

import psycopg
import pytest
import redis

from usage_pipeline.local.servers.both import LocalServers
from usage_pipeline.settings import Settings
from usage_pipeline_tests.commands.every_command import called
from usage_pipeline_tests.rigs.clock import days_ago, today
from usage_pipeline_tests.rigs.commands import Run

PARTS = (
    *("postgresql", "schema", "redis", "backlog", "scheduler", "freshness", "alerts", "dead_letters", "to_decide"),
    *("start_dates", "lifecycle"),
)
GONE = {"DATABASE_URL": "postgresql://u:hunter2@127.0.0.1:1/x"}, {"REDIS_URL": "redis://:hunter2@127.0.0.1:1"}


def test_a_quiet_pipeline_is_ok_and_fits_a_screen(run: Run) -> None:
    done = run("status", COLUMNS="80")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) <= 40
    assert [line for line in lines if len(line) > 80] == []
    assert {line[:4].strip() for line in lines[1 : 1 + len(PARTS)]} == {"ok"}
    document = json.loads(run("status", "--json").stdout)
    assert tuple(document["parts"]) == PARTS
    assert document["success"] is True
    assert {part["state"] for part in document["parts"].values()} == {"ok"}


@pytest.mark.parametrize("away", GONE, ids=["PostgreSQL", "Redis"])
def test_the_rest_is_shown_when_a_server_is_away(run: Run, away: dict[str, str]) -> None:
    done = run("status", "--json", **away)
    assert done.returncode == 1
    assert "hunter2" not in done.stdout + done.stderr
    parts = json.loads(done.stdout)["parts"]
    of_redis = {"redis", "backlog"}
    down = of_redis if "REDIS_URL" in away else set(PARTS) - of_redis
    assert {name for name, part in parts.items() if part["state"] == "down"} == down
    assert run("status", **away).returncode == 1


def test_what_needs_somebody_is_named(
    run: Run, redis_client: redis.Redis, postgres: psycopg.Connection, settings: Settings
) -> None:
    redis_client.hset("apikey:a:metrics", "total_requests", "many")
    run("drain")
    redis_client.sadd("usage_pipeline:touched:provider", "x")
    postgres.execute(
        "insert into ops.touched_days (family, usage_date, version, rolled_version) values ('api_key', %s, 2, 1)"
        " on conflict (family, usage_date) do update set version = 2, rolled_version = 1",
        (days_ago(60),),
    )
    key = f"usage:m:{today()}:orders"
    redis_client.set(key, 7)
    run("aggregate", "--date", today())
    redis_client.set(key, 2)
    run("aggregate", "--date", today())
    done = run("status", "--json", USAGE_START_DATE=str(days_ago(30)))
    assert done.returncode == 0, "it could read everything"
    parts = json.loads(done.stdout)["parts"]
    assert parts["dead_letters"]["by_family"] == {"api_key": 1}
    assert parts["to_decide"]["open_regressions"] == 1
    [fault] = parts["start_dates"]["faults"]
    assert fault.startswith(f"USAGE_START_DATE is {days_ago(30)}, and {days_ago(60)} is stored: ")
    assert [
        one["windows_waiting"] for one in parts["freshness"]["tables"] if one["table"] == "usage.api_key_daily"
    ] == [1]
    for name in ("dead_letters", "to_decide", "start_dates", "freshness"):
        assert parts[name]["state"] == "look"
    shown = run("status", COLUMNS="80", USAGE_START_DATE=str(days_ago(30))).stdout
    assert "usage-pipeline dead-letters list" in shown
    assert fault in shown
    assert fault in run("migrate", USAGE_START_DATE=str(days_ago(30))).stderr
    assert "START_DATE" not in run("migrate").stderr


def test_an_evicting_redis_is_told(run: Run, redis_client: redis.Redis) -> None:
    redis_client.config_set("maxmemory-policy", "allkeys-lru")
    redis_client.config_set("maxmemory", "1gb")
    try:
        part = json.loads(run("status", "--json").stdout)["parts"]["redis"]
    finally:
        redis_client.config_set("maxmemory-policy", "noeviction")
        redis_client.config_set("maxmemory", "0")
    assert (part["state"], part["policy"]) == ("look", "allkeys-lru")
    assert "set noeviction" in part["said"]


def test_a_user_of_redis_without_info_is_no_failure(run: Run, redis_client: redis.Redis, servers: LocalServers) -> None:
    redis_client.execute_command("ACL", "SETUSER", "small", "on", ">word", "~*", "+@all", "-info")
    try:
        address = servers.redis_url.rpartition("@")[2]
        part = json.loads(run("status", "--json", REDIS_URL=f"redis://small:word@{address}").stdout)["parts"]["redis"]
    finally:
        redis_client.execute_command("ACL", "DELUSER", "small")
    assert part["state"] == "look"
    assert "may not call INFO" in part["said"]


def test_a_slow_query_is_a_line_and_the_others_are_there(
    settings: Settings,
    postgres: psycopg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("DATABASE_URL", settings.database_url.get_secret_value())
    monkeypatch.setenv("REDIS_URL", settings.redis_dsn.get_secret_value())
    monkeypatch.setattr("usage_pipeline.status.everything._STATEMENT_SECONDS", 0.3)
    postgres.execute("begin; lock table ops.alerts in access exclusive mode")
    try:
        status, output, _ = called(["status", "--json"], capfd)
    finally:
        postgres.execute("rollback")
    parts = json.loads(output)["parts"]
    assert status == 1
    assert {name for name, part in parts.items() if part["state"] == "down"} == {"alerts"}
    assert "takes too long" in parts["alerts"]["said"]


def test_it_changes_nothing(run: Run, postgres: psycopg.Connection, redis_client: redis.Redis) -> None:
    redis_client.hset("apikey:a:metrics", "total_requests", 1)
    written = "select sum(n_tup_ins + n_tup_upd + n_tup_del) from pg_stat_user_tables"
    before = postgres.execute(written).fetchall(), redis_client.dbsize()
    run("status")
    postgres.execute("select pg_stat_clear_snapshot()")
    assert (postgres.execute(written).fetchall(), redis_client.dbsize()) == before


def test_the_older_form_with_a_date_is_the_status_of_merchants(run: Run, redis_client: redis.Redis) -> None:
    redis_client.incrby(f"usage:m:{today()}:orders", 7)
    old, new = run("status", today(), "--json"), run("merchants", "status", today(), "--json")
    assert json.loads(old.stdout) == json.loads(new.stdout)
    assert json.loads(old.stdout)["missing_count"] == 1
    assert f"`usage-pipeline merchants status {today()}`" in old.stderr
    assert run("merchants", "status", "2999-01-01").returncode == 2


def test_the_page_of_operations_says_where_to_look_first() -> None:
    page = (Path(__file__).parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")
    assert "usage-pipeline status" in page
