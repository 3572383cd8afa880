"""The Redis users of docs/operations.md: each has enough for all that its processes do, with and without INFO and CONFIG."""

import re
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
import redis
from usage_recorder.recorder import Recorder

from usage_pipeline.access.tokens import create_token
from usage_pipeline.alerting.evaluation import evaluate_pipeline
from usage_pipeline.alerting.facts import OrchestrationFacts
from usage_pipeline.checks.open_matters import backlog_faults, eviction_faults
from usage_pipeline.drain.quotas import publish_quotas
from usage_pipeline.drain.readings.ledger import read_sources
from usage_pipeline.drain.rounds import drain_until_empty
from usage_pipeline.local.servers.redis import redis_executable
from usage_pipeline.merchants.aggregation import aggregate
from usage_pipeline.reconciliation.comparison import reconcile
from usage_pipeline.settings import load_settings
from usage_pipeline_tests.drain.rig import event_item
from usage_pipeline_tests.rigs.commands import run_command
from usage_pipeline_tests.rigs.places import DOCS
from usage_pipeline_tests.rigs.service import EVENTS_PATH, serving
from usage_pipeline_tests.rigs.waiting import wait_until
from usage_pipeline_tests.torture.servers import RedisServer, valkey_executable

_SERVERS = {"redis 6.2": redis_executable, "valkey": valkey_executable}
_PASSWORD = "of-few-rights"
# Rules that older servers refuse to take, since they do not know the command.
_NEWER = ("+waitaof", "+client|setinfo", "+client|setname")


def documented_rules(user: str) -> list[str]:
    page = (DOCS / "operations.md").read_text()
    [rules] = re.findall(rf"^ACL SETUSER {user} (.*?)^(?:```|ACL)", page, re.MULTILINE | re.DOTALL)
    return [_PASSWORD.join(rule.split("PASSWORD")) for rule in rules.split()]


@pytest.fixture(params=_SERVERS)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RedisServer]:
    running = RedisServer(tmp_path / "redis", executable=_SERVERS[request.param]())
    running.start()
    yield running
    running.stop()


@pytest.fixture(params=[(), ("+info", "+config|get")], ids=["without INFO and CONFIG", "with both"])
def more(request: pytest.FixtureRequest) -> tuple[str, ...]:
    found: tuple[str, ...] = request.param
    return found


@pytest.fixture
def url_of(server: RedisServer, more: tuple[str, ...]) -> Callable[[str], str]:
    def make(user: str) -> str:
        with server.client() as admin:
            is_old = tuple(int(part) for part in admin.info("server")["redis_version"].split(".")) < (7, 2)
            rules = [rule for rule in documented_rules(user) if not is_old or rule not in _NEWER]
            admin.execute_command("ACL", "SETUSER", user, *rules, *more)
            admin.execute_command("ACL", "LOG", "RESET")
        return server.url.replace("redis://", f"redis://{user}:{_PASSWORD}@")

    return make


def denied(server: RedisServer) -> set[str]:
    """What was refused to anybody since the user was made, whoever swallowed the error. But INFO and CONFIG may be."""
    with server.client() as admin:
        entries = admin.acl_log()
    return {f"{one['reason']} {one['object']}" for one in entries} - {
        f"command {name}" for name in ("info", "config", "config|get", "client|setinfo", "client|setname", "client")
    }


def write_everything(url: str) -> None:
    """What writers write, and odd things among it: other types, and what cannot be stored."""
    recorder = Recorder.connect(url, timeout_seconds=10)
    for _ in range(2):
        assert recorder.record_api_key("key-1", file_size=10)
        assert recorder.record_provider("key-1", "s3", user_id="u")
        assert recorder.record_token("token-1", "api-0")
        assert recorder.record_merchant("merchant-1", "orders")
    recorder.close()
    with redis.Redis.from_url(url) as client:
        client.rpush("event_queue", event_item(), "junk")
        client.set("apikey:odd:metrics", "no hash")
        client.hset("token_usage:odd:x", "a", "b")
        client.set("api_token:upt_1", "{}")


def test_the_drain_and_the_code_location_need_no_more_than_the_rules(
    server: RedisServer, url_of: Callable[[str], str], database_url: str, postgres: psycopg.Connection
) -> None:
    settings = load_settings(database_url=database_url, redis_url=url_of("usage_drain"))
    postgres.execute("insert into usage.api_key_quotas (api_key_id, requests_per_day) values ('key-1', 5)")
    token = create_token(postgres, "one", ("ingest",))
    write_everything(server.url)
    with server.client() as admin:
        admin.set(f"token_usage:{token.token_id}:api-0", '{"usageCount": 4, "instanceId": "api-0"}')
    read_sources(settings)
    for family in ("api_key", "event"):
        backlog_faults(settings, family)
    eviction_faults(settings)
    # Without INFO its barrier is the age of a claim.
    for _ in range(3):
        drain_until_empty(settings, should_stop=threading.Event())
    with redis.Redis.from_url(settings.redis_dsn.get_secret_value()) as client:
        publish_quotas(postgres, client)
    aggregate(settings, [datetime.now(UTC).date()])
    reconcile(settings, sleep=lambda _: None)
    evaluate_pipeline(settings, OrchestrationFacts(), {})
    for command in (
        ("budgets", "set", "b", "--scope", "all", "--period", "day", "--limit", "5", "--unit", "usd"),
        ("budgets", "list"),
        ("budgets", "remove", "b"),
        ("tokens", "revoke", token.token_id),
        ("dead-letters", "list"),
    ):
        run_command(settings, *command)
    assert denied(server) == set()
    stored = postgres.execute(
        "select (select total_requests from usage.api_keys), (select metric_value from usage.merchant_usage),"
        " (select count(*) from raw.request_events), (select count(*) from ops.dead_letters)"
    ).fetchone()
    assert stored == (2, 2, 1, 3)


def test_the_service_needs_no_more_than_the_rules(
    server: RedisServer, url_of: Callable[[str], str], database_url: str, postgres: psycopg.Connection
) -> None:
    settings = load_settings(database_url=database_url, redis_url=url_of("usage_service"))
    write_everything(server.url)
    token = create_token(postgres, "all", ("ingest", "read", "correct"), quota=1_000).token
    now = datetime.now(UTC) - timedelta(minutes=5)
    event = {
        "event_id": "one", "event_time": now.isoformat(), "user_id": "u", "team": "t", "service": "s", "provider": "openai",
        "model": "gpt-4o", "input_tokens": 1, "output_tokens": 1, "latency_ms": 1, "status_code": 200,
    }  # fmt: skip
    with serving(settings) as service:
        client = service.with_token(token)
        assert client.post(EVENTS_PATH, json=[event]).status_code == 200
        day = now.date().isoformat()
        answered = {
            path: client.get(path).status_code
            for path in (
                "/healthz",
                "/metrics",
                "/",
                "/api/issues/popular",
                "/api/issues/popular",
                "/api/budgets",
                "/api/usage/summary",
                f"/api/usage/explore?from={day}&to={day}",
                f"/api/usage/api-keys?from={day}&to={day}",
                "/api/usage/api-keys/key-1",
                "/api/usage/tokens/token-1",
            )
        }
        [found] = [client.get(path) for path in answered if path == "/api/usage/api-keys/key-1"]
        with server.client() as admin:
            # Its own uses are counted, too.
            wait_until(
                lambda: [*admin.scan_iter("token_usage:*:*")] != [], "the service counts the use of the token", 20
            )
    assert denied(server) == set()
    assert {path for path, status in answered.items() if status >= 500} == set()
    assert found.json()["pending"]["totalRequests"] == 2, found.text


def test_neither_may_administer_the_server(server: RedisServer, url_of: Callable[[str], str]) -> None:
    for user in ("usage_drain", "usage_service"):
        with redis.Redis.from_url(url_of(user)) as client:
            for command in (
                ("FLUSHALL",), ("CONFIG", "SET", "save", ""), ("ACL", "LIST"), ("SHUTDOWN", "NOSAVE"), ("KEYS", "*"),
                ("REPLICAOF", "127.0.0.1", 1), ("GET", "somebody:else"), ("MONITOR",), ("SWAPDB", 0, 1),
            ):  # fmt: skip
                with pytest.raises(redis.RedisError, match=r"(?i)noperm|permission|can't (run|access)"):
                    client.execute_command(*command)
