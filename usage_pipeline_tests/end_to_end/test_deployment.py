"""What deploy/ describes, started as processes: roles, migrations, health checks, a read-only UI, runs on Celery workers."""

import importlib
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import celery
import httpx
import psycopg
import pytest
import redis

from usage_pipeline.drain.rounds import drain_until_empty
from usage_pipeline.local.processes.children import stop_children
from usage_pipeline.local.servers.postgres import RunningPostgres, start_postgres, stop_postgres
from usage_pipeline.local.servers.redis import start_redis, stop_redis
from usage_pipeline.settings import load_settings
from usage_pipeline_tests.end_to_end.rigs.composed import SECRETS, Composed
from usage_pipeline_tests.end_to_end.rigs.dagster_system import wait_until
from usage_pipeline_tests.rigs.deployment_files import DEPLOY
from usage_pipeline_tests.rigs.places import servers_folder
from usage_pipeline_tests.storage.roles.prepared_server import prepare_server

LAUNCH = """mutation ($parameters: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $parameters) {
    __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }"""
BACKFILL = """query ($id: String!) { partitionBackfillOrError(backfillId: $id) { ... on PartitionBackfill {
    status error { message } assetBackfillData { assetBackfillStatuses { ... on AssetPartitionsStatusCounts {
        numPartitionsMaterialized numPartitionsFailed } } } } } }"""
RUNS = "{ runsOrError { ... on Runs { results { runId status tags { key value } } } } }"
LAUNCH_RUN = """mutation { launchRun(executionParams: { selector: { repositoryLocationName: "usage_pipeline",
    repositoryName: "__repository__", jobName: "drain_now" } }) { ... on LaunchRunSuccess { run { runId } } } }"""
STATUS = "query ($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"
CANCEL = "mutation ($id: String!) { terminateRun(runId: $id) { __typename } }"
ASSETS = "{ assetNodes { assetKey { path } } permissions { permission value } }"
WORKERS = ("one", "two")
MODULES = {"celery_launcher.py", "celery_messages.py", "celery_transport.py", "celery_worker.py"}
FOLDERS = {"logs", ".logs_queue", "storage"}
TIMEOUT_SECONDS = 180


@dataclass(frozen=True)
class Deployment:
    composed: Composed
    postgres: RunningPostgres
    redis_url: str

    def ask(self, service: str, query: str, **variables: object) -> Any:
        answer = httpx.post(
            f"{self.composed.url(service)}/graphql",
            json={"query": query, "variables": variables},
            timeout=60,
            trust_env=False,
        )
        document = answer.raise_for_status().json()
        assert "errors" not in document, document["errors"]
        return document["data"]


@pytest.fixture(scope="module")
def deployment() -> Iterator[Deployment]:
    with ExitStack() as stack:
        folder = stack.enter_context(servers_folder())
        server = start_redis(folder / "redis")
        stack.callback(stop_redis, server)
        stack.callback(stop_postgres, folder / "postgres")
        postgres = start_postgres(folder / "postgres", durable=False)
        prepare_server(postgres)
        # As in compose: a server of its own.
        broker_server = start_redis(folder / "broker")
        stack.callback(stop_redis, broker_server)
        broker = broker_server.url
        composed = Composed(
            folder,
            postgres.socket_folder,
            {
                "REDIS_URL": server.url,
                "DAGSTER_CELERY_BROKER_URL": broker,
                "DAGSTER_CELERY_BACKEND_URL": broker,
            },
        )
        stack.callback(lambda: stop_children(composed.children))
        start_all(composed)
        yield Deployment(composed, postgres, server.url)


def start_all(composed: Composed) -> None:
    """In the order of `depends_on`, each once the health checks of those before it pass."""
    composed.run("migrate")
    composed.run("dagster-migrate")
    code = composed.start("code")
    workers = {
        name: composed.start("celery-worker", "--hostname", f"celery@{name}", "--concurrency", "1") for name in WORKERS
    }
    composed.wait_until_healthy("code", code)
    later = {name: composed.start(name) for name in ("daemon", "webserver", "webserver-read-only")}
    later["api"] = composed.start("api", "--workers", "1")
    for name, child in later.items():
        composed.wait_until_healthy(name, child)
    for name, child in workers.items():
        composed.wait_until_healthy("celery-worker", child, HOSTNAME=name)


def backfill_parameters(days: list[date]) -> dict[str, object]:
    names = [day.isoformat() for day in days]
    return {"assetSelection": [{"path": ["usage", "api_key_daily"]}], "partitionNames": names}


def test_roles_of_the_first_start_suffice_and_keep_the_databases_apart(deployment: Deployment) -> None:
    with psycopg.connect(deployment.postgres.url("usage")) as connection:
        roles = "select rolname, rolsuper or rolcreaterole or rolcreatedb from pg_roles where rolname = any(%s)"
        names = ["usage_pipeline", "usage_api", "usage_drain", "usage_analyst", "dagster"]
        found = dict(connection.execute(roles, (names,)).fetchall())
        assert found == dict.fromkeys(names, False)
        may = "select has_database_privilege(%s, %s, 'connect')"
        pairs = [
            ("usage_pipeline", "usage"),
            ("usage_api", "usage"),
            ("usage_drain", "usage"),
            ("usage_analyst", "usage"),
        ]
        pairs += [("dagster", "dagster")]
        assert all(connection.execute(may, pair).fetchone() == (True,) for pair in pairs)
        pairs = [(name, "dagster") for name in names if name != "dagster"] + [("dagster", "usage")]
        assert all(connection.execute(may, pair).fetchone() == (False,) for pair in pairs)
        readable = "select has_table_privilege('usage_analyst', 'reporting.usage_by_hour', 'select')"
        assert connection.execute(readable).fetchone() == (True,), "migrate grants what it may not create"


def test_the_read_only_ui_shows_everything_and_refuses_a_backfill(deployment: Deployment) -> None:
    shown = deployment.ask("webserver-read-only", ASSETS)
    assert shown["assetNodes"] == deployment.ask("webserver", ASSETS)["assetNodes"]
    assert {"usage", "api_key_daily"} in [set(node["assetKey"]["path"]) for node in shown["assetNodes"]]
    assert not any(one["value"] for one in shown["permissions"])
    parameters = backfill_parameters([datetime.now(UTC).date() - timedelta(days=1)])
    refused = deployment.ask("webserver-read-only", LAUNCH, parameters=parameters)["launchPartitionBackfill"]
    assert refused["__typename"] == "UnauthorizedError"


def test_a_backfill_of_twenty_days_is_worked_on_by_both_celery_workers(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    today = datetime.now(UTC).date()
    # Ten pairs: the days of a pair share a run.
    days = sorted(today - timedelta(days=ago) for ago in range(1, 31) if ago % 3)
    assert len(days) == 20
    with redis.Redis.from_url(deployment.redis_url) as client:
        for number, day in enumerate(days, start=1):
            at = datetime(day.year, day.month, day.day, 12, tzinfo=UTC)
            counts = {"total_requests": number, "last_used_at": int(at.timestamp() * 1000)}
            client.hset(f"apikey:{day}:metrics", mapping=counts)
    settings = load_settings(database_url=deployment.postgres.url("usage"), redis_url=deployment.redis_url)
    assert drain_until_empty(settings, should_stop=threading.Event()).is_complete

    launched = deployment.ask("webserver", LAUNCH, parameters=backfill_parameters(days))["launchPartitionBackfill"]
    assert launched["__typename"] == "LaunchBackfillSuccess", launched
    backfill = followed(deployment, launched["backfillId"])
    assert backfill["status"] == "COMPLETED_SUCCESS", backfill
    assert backfill["assetBackfillData"]["assetBackfillStatuses"] == [
        {"numPartitionsMaterialized": 20, "numPartitionsFailed": 0}
    ]
    with psycopg.connect(deployment.postgres.url("usage")) as connection:
        rows = connection.execute("select usage_date, total_requests from usage.api_key_daily order by 1").fetchall()
    assert rows == [(day, number) for number, day in enumerate(days, start=1)]

    runs = deployment.ask("webserver", RUNS)["runsOrError"]["results"]
    assert [run["status"] for run in runs] == ["SUCCESS"] * 10
    broker = deployment.composed.servers["DAGSTER_CELERY_BACKEND_URL"]
    monkeypatch.setenv("DAGSTER_CELERY_SIGNING_KEY", SECRETS["CELERY_SIGNING_KEY"])
    monkeypatch.syspath_prepend(DEPLOY / "celery")
    messages = importlib.import_module("celery_messages")
    app = celery.Celery(broker=broker, backend=broker)
    app.conf.update(messages.signed_messages())
    tasks = [tag["value"] for run in runs for tag in run["tags"] if tag["key"] == "dagster-celery/task_id"]
    workers = Counter(app.AsyncResult(task).worker for task in tasks)
    assert sorted(workers) == [f"celery@{name}" for name in WORKERS]
    assert workers.total() == 10


def test_a_run_that_is_cancelled_ends_so_and_is_not_retried(deployment: Deployment) -> None:
    held = "select pg_advisory_lock(hashtext('drain'), hashtext('api_key'))"
    with psycopg.connect(deployment.postgres.url("usage")) as connection:
        # Which the run waits for.
        connection.execute(held)
        run = deployment.ask("webserver", LAUNCH_RUN)["launchRun"]["run"]["runId"]
        wait_until(lambda: status(deployment, run) == "STARTED", "the start of a run", timeout_seconds=TIMEOUT_SECONDS)
        answer = deployment.ask("webserver", CANCEL, id=run)["terminateRun"]
        assert answer["__typename"] == "TerminateRunSuccess"
        wait_until(
            lambda: status(deployment, run) not in ("STARTED", "CANCELING"), "its end", timeout_seconds=TIMEOUT_SECONDS
        )
    assert status(deployment, run) == "CANCELED"
    [found] = [one for one in deployment.ask("webserver", RUNS)["runsOrError"]["results"] if one["runId"] == run]
    assert "dagster/will_retry" not in {tag["key"] for tag in found["tags"]}


def test_nothing_is_written_beside_the_volumes(deployment: Deployment) -> None:
    """The containers' file systems are read-only."""
    dagster = deployment.composed.folder / "opt" / "dagster"
    assert {path.name for path in (dagster / "home").iterdir()} == {"dagster.yaml", *FOLDERS}
    written = {path.name for path in (dagster / "celery").iterdir()} - {"__pycache__"}
    assert written == {"dagster.yaml", *MODULES, *FOLDERS}
    assert not [path for name in ("logs", ".logs_queue") for path in (dagster / "celery" / name).iterdir()]


def followed(deployment: Deployment, backfill: str) -> Any:
    def ended() -> Any:
        found = deployment.ask("webserver", BACKFILL, id=backfill)["partitionBackfillOrError"]
        return found if found["status"] not in ("REQUESTED", "COMPLETING") else None

    return wait_until(ended, "the backfill", timeout_seconds=TIMEOUT_SECONDS)


def status(deployment: Deployment, run: str) -> str:
    found: str = deployment.ask("webserver", STATUS, id=run)["runOrError"]["status"]
    return found
