"""The Redis user that docs/redis-keys.md gives to servers that write counters: enough for the recorder, and no more."""

import json
import re
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import psycopg
import pytest
import redis
from usage_recorder import keys as recorder_keys
from usage_recorder.recorder import Recorder

from usage_pipeline import redis_keys as keys
from usage_pipeline.drain.quotas import publish_quotas
from usage_pipeline.drain.rounds import drain_once
from usage_pipeline.local.servers.redis import redis_executable
from usage_pipeline.settings import load_settings
from usage_pipeline_tests.rigs.places import DOCS
from usage_pipeline_tests.torture.servers import RedisServer, valkey_executable

BUDGET = {"name": "b", "unit": "usd", "used": "2", "limit": "1", "as_of": 1_700_000_000, "ends_at": 9_000_000_000}
_PASSWORD = "not-the-pipelines"
# Redis 6.2 comes with the package; it knows no rights that are for reading alone.
_SERVERS = {"redis 6.2": redis_executable, "valkey": valkey_executable}
_OURS = (
    "api_token:upt_000000000000",
    "popular:issues",
    keys.token_quota("token-1", date(2026, 11, 20)),
    keys.claim("0190-batch", b"apikey:key-1:metrics").decode(),
    keys.open_batches("api_key"),
    keys.taken("api_key"),
    keys.unlinked("0190-batch"),
    keys.scan_pause("api_key"),
    keys.drained_server("api_key"),
    keys.ranking_filler("popular:issues"),
    keys.BARRIER,
    "usage_pipeline:quota_ids",
    keys.BUDGET_SCOPES,
)


def documented_rules() -> list[str]:
    page = (DOCS / "redis-keys.md").read_text()
    [rules] = re.findall(r"^ACL SETUSER counter_writer (.*?)^```", page, re.MULTILINE | re.DOTALL)
    return [_PASSWORD.join(rule.split("PASSWORD")) for rule in rules.split()]


@pytest.fixture(params=_SERVERS)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RedisServer]:
    running = RedisServer(tmp_path / "redis", executable=_SERVERS[request.param]())
    running.start()
    yield running
    running.stop()


@pytest.fixture
def reads_quotas(request: pytest.FixtureRequest) -> bool:
    return "valkey" in request.node.name


@pytest.fixture
def writer_url(server: RedisServer, reads_quotas: bool) -> str:
    rules = [rule for rule in documented_rules() if reads_quotas or not rule.startswith("%")]
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "counter_writer", *rules)
    return server.url.replace("redis://", f"redis://counter_writer:{_PASSWORD}@")


def test_the_recorder_works_and_all_it_wrote_is_drained(
    server: RedisServer, writer_url: str, reads_quotas: bool, database_url: str, postgres: psycopg.Connection
) -> None:
    postgres.execute("insert into usage.api_key_quotas (api_key_id, requests_per_day) values ('key-1', 5)")
    with server.client() as client:
        publish_quotas(postgres, client)
    recorder = Recorder.connect(writer_url, timeout_seconds=20)
    for _ in range(2):
        assert recorder.record_api_key("key-1", file_size=2048, files_uploaded=1)
        assert recorder.record_provider("key-1", "s3", user_id="user-1", file_size=2048)
        assert recorder.record_token("token-1", "api-0:8080")
        assert recorder.record_merchant("merchant-1", "orders")
        assert recorder.record_event("key-1", user_id="user-1", provider="s3", event_type="upload")
    assert (recorder.pending("key-1") or {})["total_requests"] == 2
    decision = recorder.check_quota("key-1")
    assert (decision.is_known, decision.remaining_today) == ((True, 3) if reads_quotas else (False, None))
    with server.client() as client:
        client.set(recorder_keys.budget("all"), json.dumps({"budgets": [BUDGET]}))
    answer = recorder.check_budget("all")
    assert (answer.is_known, answer.is_used_up) == (reads_quotas, reads_quotas)
    expected_failures = {} if reads_quotas else {("quota", "refused"): 1, ("budget", "refused"): 1}
    assert dict(recorder.failures) == expected_failures
    recorder.close()
    drain_once(load_settings(database_url=database_url, redis_url=server.url))
    stored = postgres.execute(
        "select (select total_requests from usage.api_keys), (select upload_count from usage.provider_usage),"
        " (select usage_count from usage.api_access_tokens), (select count(*) from raw.request_events)"
    ).fetchone()
    assert stored == (2, 2, 2, 2)


def test_a_writer_cannot_touch_what_the_pipeline_and_the_service_keep(server: RedisServer, writer_url: str) -> None:
    commands = (
        ("SET", "x"), ("GET",), ("INCRBY", 1), ("EXPIRE", 0), ("HSET", "field", "x"), ("SADD", "x"), ("RPUSH", "x"),
        ("ZADD", 1, "x"), ("EVAL", "return redis.call('SET', KEYS[1], 'x')"),
    )  # fmt: skip
    with server.client() as admin, redis.Redis.from_url(writer_url) as writer:
        for name in _OURS:
            admin.set(name, "ours")
            for command, *arguments in commands:
                words = (arguments[0], 1, name) if command == "EVAL" else (name, *arguments)
                with pytest.raises(redis.ResponseError, match=r"(?i)noperm|permission|can't (run|access)"):
                    writer.execute_command(command, *words)
            assert admin.get(name) == b"ours"


def test_a_writer_can_read_quotas_of_api_keys_and_not_change_them(
    server: RedisServer, writer_url: str, reads_quotas: bool
) -> None:
    name = recorder_keys.quota("key-1")
    with server.client() as admin, redis.Redis.from_url(writer_url) as writer:
        admin.hset(name, "requests_per_day", 5)
        for command in (("HSET", name, "requests_per_day", 9), ("EXPIRE", name, 0), ("SET", name, "x")):
            with pytest.raises(redis.ResponseError, match=r"(?i)noperm|permission|can't (run|access)"):
                writer.execute_command(*command)
        if reads_quotas:
            assert writer.hmget(name, "requests_per_day") == [b"5"]


def test_a_writer_can_read_how_budgets_stand_and_not_change_it(
    server: RedisServer, writer_url: str, reads_quotas: bool
) -> None:
    with server.client() as admin, redis.Redis.from_url(writer_url) as writer:
        for name in (recorder_keys.budget("all"), recorder_keys.budgets_as_of()):
            admin.set(name, "ours")
            for command in (("SET", name, "x"), ("EXPIRE", name, 0), ("INCRBY", name, 1)):
                with pytest.raises(redis.ResponseError, match=r"(?i)noperm|permission|can't (run|access)"):
                    writer.execute_command(*command)
            if reads_quotas:
                assert writer.get(name) == b"ours"


def test_a_writer_has_no_command_for_the_server_or_all_keys(server: RedisServer, writer_url: str) -> None:
    with redis.Redis.from_url(writer_url) as writer:
        for command in (
            ("FLUSHALL",), ("CONFIG", "GET", "*"), ("KEYS", "*"), ("SCAN", 0), ("DEL", "event_queue"), ("ACL", "LIST"),
            ("RENAME", "event_queue", "usage:x"), ("SHUTDOWN", "NOSAVE"), ("MONITOR",), ("REPLICAOF", "127.0.0.1", 1),
            ("SUBSCRIBE", "x"), ("PUBLISH", "x", "y"), ("CLIENT", "KILL", "TYPE", "normal"),
            ("EVAL", "return redis.call('FLUSHALL')", 0), ("SCRIPT", "FLUSH"), ("MODULE", "LIST"), ("SWAPDB", 0, 1),
        ):  # fmt: skip
            with pytest.raises(redis.RedisError, match=r"(?i)noperm|permission|can't (run|access)"):
                writer.execute_command(*command)


def test_a_name_that_is_no_counter_is_not_drained_although_a_writer_announces_it(
    server: RedisServer, writer_url: str, database_url: str, postgres: psycopg.Connection
) -> None:
    """The drain may touch everything; it must not do for a writer what the writer may not."""
    victims = (*_OURS[:3], recorder_keys.quota("key-1"), "apikey:key-1:timeline", "somebody:else")
    with server.client() as admin, redis.Redis.from_url(writer_url) as writer:
        for name in victims:
            admin.set(name, "ours")
        for family in ("api_key", "provider", "token"):
            writer.sadd(recorder_keys.touched(family), *victims)
        drain_once(load_settings(database_url=database_url, redis_url=server.url))
        assert [name for name in victims if admin.get(name) != b"ours"] == []
        assert admin.exists(*(recorder_keys.touched(family) for family in ("api_key", "provider", "token"))) == 0
    assert postgres.execute("select count(*) from ops.dead_letters").fetchone() == (0,)


def test_a_writer_cannot_stop_the_drain_by_what_it_puts_in_place_of_announcements(
    server: RedisServer, writer_url: str, database_url: str, postgres: psycopg.Connection
) -> None:
    settings = load_settings(database_url=database_url, redis_url=server.url)
    recorder = Recorder.connect(writer_url, timeout_seconds=20)
    with redis.Redis.from_url(writer_url) as writer:
        for family in ("api_key", "provider", "token"):
            writer.set(recorder_keys.touched(family), "no set")
    recorder.record_api_key("key-1")
    drain_once(settings)
    recorder.record_api_key("key-1")
    drain_once(settings)
    recorder.close()
    assert postgres.execute("select total_requests from usage.api_keys").fetchone() == (2,)
