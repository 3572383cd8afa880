"""What compose describes, at work in containers of the image: contained, in step with each other, and back after a kill."""

import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import httpx
import psycopg
import pytest
import redis

from usage_pipeline_tests.deploy.image.containers import Containers
from usage_pipeline_tests.deploy.image.engine import Engine
from usage_pipeline_tests.deploy.image.servers import Servers, running_servers
from usage_pipeline_tests.rigs.deployment_files import DEPLOY, documents
from usage_pipeline_tests.rigs.places import servers_folder
from usage_pipeline_tests.rigs.waiting import wait_until

# In the order of `depends_on`.
BEFORE_DAGSTER = ("code", "celery-worker", "drain", "api")
DAGSTER = ("daemon", "webserver", "webserver-read-only")
STAY = BEFORE_DAGSTER + DAGSTER
TIMEOUT_SECONDS = 300
WRITTEN_KEYS = 2_000
LAUNCH = """mutation { launchRun(executionParams: { selector: { repositoryLocationName: "usage_pipeline",
    repositoryName: "__repository__", jobName: "reconcile" } }) { ... on LaunchRunSuccess { run { runId } } } }"""
STATUS = "query ($id: ID!) { runOrError(runId: $id) { ... on Run { status tags { key value } } } }"


@dataclass
class Stack:
    engine: Engine
    containers: Containers
    servers: Servers
    redis: redis.Redis

    def url(self, service: str, port: int) -> str:
        return f"http://{self.servers.addresses.of[service]}:{port}"

    def ask(self, query: str, **variables: object) -> Any:
        answer = httpx.post(
            f"{self.url('webserver', 3000)}/graphql",
            json={"query": query, "variables": variables},
            timeout=60,
            trust_env=False,
        )
        document = answer.raise_for_status().json()
        assert "errors" not in document, document["errors"]
        return document["data"]

    def stored(self) -> dict[str, int]:
        """Requests by API key, as stored."""
        with psycopg.connect(self.servers.postgres.url("usage")) as connection:
            return dict(connection.execute("select api_key_id, total_requests from usage.api_keys").fetchall())

    def wait_until_stored(self, written: dict[str, int], log: str) -> None:
        def is_stored() -> bool:
            found = self.stored()
            assert all(found.get(name, 0) <= count for name, count in written.items()), "something counted twice"
            return {name: found.get(name, 0) for name in written} == written

        wait_until(
            is_stored,
            f"{len(written)} keys are stored",
            TIMEOUT_SECONDS,
            poll_seconds=0.2,
            log=lambda: self.engine.logs(log),
        )

    def batches(self) -> int:
        with psycopg.connect(self.servers.postgres.url("usage")) as connection:
            [(found,)] = connection.execute("select count(*) from ops.sync_batches").fetchall()
        return int(found)

    def wait_for_a_batch(self, log: str) -> None:
        seen = self.batches()
        wait_until(
            lambda: self.batches() > seen, "a batch is stored", TIMEOUT_SECONDS, log=lambda: self.engine.logs(log)
        )


@pytest.fixture(scope="module")
def stack(engine: Engine, image: str) -> Iterator[Stack]:
    with ExitStack() as stack:
        servers = stack.enter_context(running_servers(stack.enter_context(servers_folder())))
        client = stack.enter_context(redis.Redis.from_url(servers.redis_url))
        # Nothing out of here is asked. Drains follow each other, so that a kill comes in the middle of one.
        settings = {"EXTERNAL_API_BASE_URL": "http://127.0.0.1:9", "METRICS_SYNC_INTERVAL_MS": "100"}
        containers = Containers(engine, image, servers.addresses, settings)
        containers.run("migrate")
        containers.run("dagster-migrate")
        for together in (BEFORE_DAGSTER, DAGSTER):
            for service in together:
                containers.start(service)
            for service in together:
                containers.wait_until_healthy(service)
        yield Stack(engine, containers, servers, client)


@pytest.mark.parametrize("service", STAY)
def test_it_runs_as_a_user_without_rights_on_a_file_system_that_nobody_writes_to(stack: Stack, service: str) -> None:
    # Of each process in the container: of the main one, and of what it started.
    shown = stack.engine.execute(
        service, "sh", "-c", "cat /proc/[0-9]*/status | grep -E '^(Uid|Gid|CapEff|CapPrm|CapBnd|NoNewPrivs):'"
    )
    assert shown.returncode == 0, shown.stderr
    found = {tuple(line.split()) for line in shown.stdout.splitlines()}
    none = "0" * 16
    assert found == {
        ("Uid:", *["10001"] * 4),
        ("Gid:", *["10001"] * 4),
        ("CapEff:", none),
        ("CapPrm:", none),
        ("CapBnd:", none),
        ("NoNewPrivs:", "1"),
    }
    for place in ("/", "/opt/dagster", "/opt/venv/bin", "/etc", "/var/tmp", "/run"):  # noqa: S108
        tried = stack.engine.execute(service, "touch", f"{place}/touched")
        assert tried.returncode != 0, f"{place} can be written to"
        assert "Read-only" in tried.stderr or "denied" in tried.stderr
    assert stack.engine.execute(service, "touch", "/tmp/touched").returncode == 0  # noqa: S108


def test_the_probes_of_kubernetes_pass_in_the_worker(stack: Stack) -> None:
    [deployment] = documents(DEPLOY / "kubernetes" / "drain.yaml")
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        asked = stack.engine.execute("drain", *container[name]["exec"]["command"])
        assert asked.returncode == 0, f"{name}: {asked.stderr}"


def test_a_counter_becomes_a_row_that_the_http_service_shows(stack: Stack) -> None:
    stack.redis.hset("apikey:shown:metrics", "total_requests", 7)
    stack.wait_until_stored({"shown": 7}, "drain")
    create = ("usage-pipeline", "tokens", "create", "test", "--scope", "read", "--expires", "1h", "--json")
    token = json.loads(stack.containers.run("migrate", *create))["token"]
    answer = httpx.get(
        f"{stack.url('api', 8000)}/api/usage/api-keys/shown",
        headers={"Authorization": f"Bearer {token}"},
        timeout=60,
        trust_env=False,
    )
    assert answer.status_code == 200, answer.text
    assert answer.json()["stored"]["totalRequests"] == 7


def test_a_run_is_carried_out_by_the_celery_worker(stack: Stack) -> None:
    run = stack.ask(LAUNCH)["launchRun"]["run"]["runId"]

    def ended() -> Any:
        found = stack.ask(STATUS, id=run)["runOrError"]
        return found if found["status"] in ("SUCCESS", "FAILURE", "CANCELED") else None

    found = wait_until(
        ended, "the run ends", TIMEOUT_SECONDS, poll_seconds=0.5, log=lambda: stack.engine.logs("celery-worker")
    )
    assert found["status"] == "SUCCESS", stack.engine.logs("celery-worker")
    assert "dagster-celery/task_id" in {tag["key"] for tag in found["tags"]}


def test_the_sensor_drains_while_the_worker_is_away_and_stands_down_when_it_is_back(stack: Stack) -> None:
    stack.containers.kill("drain")
    stack.redis.hset("apikey:without:metrics", "total_requests", 3)
    stack.wait_until_stored({"without": 3}, "code")
    stack.containers.start("drain")
    stack.containers.wait_until_healthy("drain")
    stack.redis.hset("apikey:with:metrics", "total_requests", 4)
    stack.wait_until_stored({"with": 4}, "drain")


@dataclass
class Writer(threading.Thread):
    """Counts in Redis as fast as it can until it is told to stop; `written` is what was counted."""

    client: redis.Redis
    written: dict[str, int] = field(default_factory=dict)
    should_stop: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        super().__init__(daemon=True)

    def __hash__(self) -> int:
        return id(self)

    def run(self) -> None:
        number = 0
        while not self.should_stop.is_set():
            number += 1
            name = f"k{number % WRITTEN_KEYS}"
            self.client.hincrby(f"apikey:{name}:metrics", "total_requests", 1)
            self.written[name] = self.written.get(name, 0) + 1


# Of the code server, each start imports Dagster, and the daemon finds it again.
@pytest.mark.parametrize(("killed", "times"), [("drain", 3), ("code", 1)])
def test_what_is_killed_while_it_drains_leaves_nothing_lost_and_nothing_doubled(
    stack: Stack, killed: str, times: int
) -> None:
    if killed == "code":
        # So that the sensor drains, which works in there.
        stack.containers.stop("drain")
    before, writer = stack.stored(), Writer(stack.redis)
    writer.start()
    try:
        for _ in range(times):
            stack.wait_for_a_batch(killed)
            stack.containers.kill(killed)
            stack.containers.start(killed)
    finally:
        writer.should_stop.set()
        writer.join(30)
        if killed == "code":
            stack.containers.start("drain")
    assert len(writer.written) == WRITTEN_KEYS
    stack.wait_until_stored({name: before.get(name, 0) + count for name, count in writer.written.items()}, "drain")
    stack.containers.wait_until_healthy(killed)
    wait_until(lambda: not stack.redis.keys("usage_pipeline:claim:*"), "no claim is left", TIMEOUT_SECONDS)


def test_what_is_told_to_stop_ends_in_order(stack: Stack) -> None:
    for service in reversed(STAY):
        stack.engine.run("podman", "stop", service, timeout_seconds=700)
        assert stack.engine.state(service) in ("exited 0", "exited 143"), stack.engine.logs(service)
