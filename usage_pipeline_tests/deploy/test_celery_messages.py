"""What reaches a Celery worker through its broker: a run that waits, in a signed message, and nothing else."""

import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest
import redis
from celery import Celery
from dagster._core.code_pointer import CustomPointer, ModuleCodePointer
from dagster._core.definitions.reconstruct import ReconstructableJob, ReconstructableRepository
from dagster._core.execution.retries import RetryMode
from dagster._core.origin import JobPythonOrigin, RepositoryPythonOrigin
from dagster._grpc.types import ExecuteRunArgs, ExecuteStepArgs
from dagster._serdes import pack_value
from dagster_celery.config import TASK_EXECUTE_JOB_NAME, TASK_EXECUTE_PLAN_NAME

from usage_pipeline.local.processes.children import Child, start_child, stop_children
from usage_pipeline.local.servers.redis import RunningRedis, start_redis, stop_redis
from usage_pipeline_tests.rigs.deployment_files import CELERY_COMPOSE, DEPLOY, interpolated, services
from usage_pipeline_tests.rigs.waiting import wait_until

CELERY = DEPLOY / "celery"
KEY = "k" * 48
QUEUE = "dagster"


@dataclass
class Worker:
    """The worker of deploy/celery/compose.yaml, on a Dagster home and a broker of its own."""

    folder: Path
    broker: RunningRedis
    process: Child
    environment: Mapping[str, str]

    @property
    def log(self) -> str:
        return self.process.log.read_text(errors="replace")

    def pongs(self) -> bool:
        """By the health check of compose."""
        [script] = services(CELERY_COMPOSE)["celery-worker"]["healthcheck"]["test"][1:]
        command = ["sh", "-c", interpolated(script, {})]
        asked = subprocess.run(command, env=self.environment, capture_output=True, timeout=120, check=False)
        return asked.returncode == 0

    def send(self, task: str, arguments: Mapping[str, Any], **settings: object) -> None:
        """As whoever knows the broker's address can: with Celery as it comes, or with these settings."""
        with closing(Celery(broker=self.broker.url, set_as_current=False)) as app:
            app.conf.update(settings)
            app.send_task(task, kwargs=dict(arguments), queue=QUEUE)

    def wait_until_said(self, text: str, times: int) -> None:
        def is_said() -> bool:
            assert not self.process.has_ended, self.log
            return self.log.count(text) >= times

        wait_until(is_said, f"it says {text!r} {times} times", 120, log=lambda: self.log)


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with tempfile.TemporaryDirectory(prefix="usage-pipeline-celery-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
        broker = start_redis(folder / "redis")
        with closing(redis.Redis.from_url(broker.url)) as client:
            for number, garbage in enumerate([b"x", b"\xff", b"[]", b"[1, 2, 3]", b'[{}, "dagster", "dagster"]']):
                client.hset("unacked", f"tag{number}", garbage)
                client.zadd("unacked_index", {f"tag{number}": 0})
        environment = {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "HOME": name,
            "HOSTNAME": "one",
            "DAGSTER_HOME": name,
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPATH": str(CELERY),
            "DAGSTER_CELERY_BROKER_URL": broker.url,
            "DAGSTER_CELERY_BACKEND_URL": broker.url,
            "DAGSTER_CELERY_SIGNING_KEY": KEY,
        }
        command = [*services(CELERY_COMPOSE)["celery-worker"]["command"], "--hostname", "celery@one"]
        log = folder / "worker.log"
        process = start_child("worker", command, mark=name, environment=environment, folder=folder, log=log)
        try:
            one = Worker(folder, broker, process, environment)
            wait_until(lambda: " ready." in one.log, "the worker is ready", 180, log=lambda: one.log)
            yield one
        finally:
            stop_children([process])
            stop_redis(broker)


@pytest.fixture
def home(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    monkeypatch.setenv("DAGSTER_HOME", str(worker.folder))
    with dg.DagsterInstance.get() as instance:
        yield instance


def attack(home: dg.DagsterInstance, command: str) -> dict[str, Any]:
    """Arguments of `execute_plan` with a job whose code is a call of the shell."""
    pointer = CustomPointer(ModuleCodePointer("os", "system", None), [command], [])
    job = ReconstructableJob(ReconstructableRepository(pointer), "anything")
    run = home.create_run_for_job(innocent)
    steps = ExecuteStepArgs(
        job_origin=job.get_python_origin(),
        run_id=run.run_id,
        step_keys_to_execute=["x"],
        instance_ref=home.get_ref(),
        retry_mode=RetryMode.DISABLED,
    )
    return {"execute_step_args_packed": pack_value(steps), "executable_dict": job.to_dict()}


@dg.job
def innocent() -> None:
    """Does nothing."""


def test_a_message_cannot_bring_code(worker: Worker, home: dg.DagsterInstance, signed: dict[str, Any]) -> None:
    proof = worker.folder / "pwned"
    for settings, refused in (({}, "Refused a message"), (signed, "unregistered task of type 'execute_plan'")):
        taken = worker.log.count(refused)
        worker.send(TASK_EXECUTE_PLAN_NAME, attack(home, f"id > {proof}"), **settings)
        worker.wait_until_said(refused, taken + 1)
    assert not proof.exists()


@pytest.fixture
def signed(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Settings of whoever has the key."""
    monkeypatch.syspath_prepend(CELERY)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setenv("DAGSTER_CELERY_SIGNING_KEY", KEY)
    settings: dict[str, Any] = importlib.import_module("celery_messages").signed_messages()
    return settings


def arguments_of(run: dg.DagsterRun) -> dict[str, Any]:
    """As Dagster's launcher makes them."""
    origin = JobPythonOrigin("any", RepositoryPythonOrigin(sys.executable, ModuleCodePointer("any", "any", None)))
    return {"execute_job_args_packed": pack_value(ExecuteRunArgs(origin, run.run_id, None))}


def test_a_run_is_not_started_by_who_has_the_password_of_the_broker_only(
    worker: Worker, home: dg.DagsterInstance, signed: dict[str, Any]
) -> None:
    run = home.create_run_for_job(innocent, status=dg.DagsterRunStatus.STARTING)
    worker.send(TASK_EXECUTE_JOB_NAME, arguments_of(run))
    worker.wait_until_said("came one without a signature", 1)
    messages = importlib.import_module("celery_messages")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGSTER_CELERY_SIGNING_KEY", "x" * 48)
        worker.send(TASK_EXECUTE_JOB_NAME, arguments_of(run), **messages.signed_messages())
        patch.setenv("DAGSTER_CELERY_SIGNING_KEY", KEY)
        assert messages.signed_messages() == signed
    worker.wait_until_said("came one with another signature", 1)
    found = home.get_run_by_id(run.run_id)
    assert found is not None
    assert found.status is dg.DagsterRunStatus.STARTING


def test_a_worker_is_not_stopped_by_who_has_the_password_of_the_broker_only(worker: Worker) -> None:
    with closing(Celery(broker=worker.broker.url, set_as_current=False)) as app:
        app.control.shutdown()
    # What answers this took the other message before.
    assert worker.pongs()
    assert not worker.process.has_ended


def test_a_command_of_before_is_not_obeyed_again(
    worker: Worker, signed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever reads the broker has it, with its signature."""
    an_hour_ago = SimpleNamespace(time=lambda: time.time() - 3_600, monotonic=time.monotonic)
    with closing(Celery(broker=worker.broker.url, set_as_current=False)) as app:
        app.conf.update(signed)
        monkeypatch.setattr(importlib.import_module("celery_transport"), "time", an_hour_ago)
        app.control.shutdown()
    worker.wait_until_said("came one that was signed more than 300 s ago", 1)
    assert worker.pongs()


# What anybody with the password of the broker can put into the queue, or say on the channel of commands.
ENVELOPE = {"body": "e30=", "content-type": "application/json", "content-encoding": "utf-8"}
PROPERTIES = {"delivery_tag": "1", "body_encoding": "base64", "delivery_info": {"exchange": "", "routing_key": QUEUE}}
TASK = {"task": TASK_EXECUTE_JOB_NAME, "id": "1"}
GARBAGE = {
    "no text": b"\xff\xfe",
    "no JSON": b"{",
    "depth": b"[" * 100_000,
    "a list": b"[]",
    "a number": b"1",
    "null": b"null",
    "nothing": b"{}",
    "a type of kombu's": b'{"__type__": "decimal", "__value__": "x"}',
    "half a type of kombu's": b'{"__type__": "uuid"}',
    "no properties": json.dumps(ENVELOPE).encode(),
    "empty properties": json.dumps(ENVELOPE | {"properties": {}}).encode(),
    "no headers": json.dumps(ENVELOPE | {"properties": PROPERTIES}).encode(),
    "a signature that is no text": json.dumps(
        ENVELOPE
        | {
            "properties": PROPERTIES,
            "headers": {"usage_pipeline_signature": "\ud800", "usage_pipeline_signed_at": 1},
        }
    ).encode(),
    "headers that are a list": json.dumps(ENVELOPE | {"properties": PROPERTIES, "headers": [1]}).encode(),
    "an encoding": json.dumps(
        ENVELOPE | {"properties": PROPERTIES | {"body_encoding": "rot13"}, "headers": TASK}
    ).encode(),
    "a delivery": json.dumps(ENVELOPE | {"properties": PROPERTIES | {"delivery_info": 1}, "headers": TASK}).encode(),
    "a tag": json.dumps(ENVELOPE | {"properties": PROPERTIES | {"delivery_tag": {}}, "headers": TASK}).encode(),
    "no id": json.dumps(ENVELOPE | {"properties": PROPERTIES, "headers": {"task": TASK_EXECUTE_JOB_NAME}}).encode(),
    "a name that is a list": json.dumps(
        ENVELOPE | {"properties": PROPERTIES, "headers": {"task": [], "id": 1}}
    ).encode(),
    "a signature that is a number": json.dumps(
        ENVELOPE | {"properties": PROPERTIES, "headers": TASK | {"signature": 1}}
    ).encode(),
    "size": b'"' + b"x" * 2_000_000 + b'"',
}


def takes_what_follows(worker: Worker, home: dg.DagsterInstance, signed: dict[str, Any]) -> str:
    """Waits until the worker has taken one more message than there were; what it said meanwhile."""
    before = len(worker.log)
    over = home.create_run_for_job(innocent, status=dg.DagsterRunStatus.SUCCESS)
    worker.send(TASK_EXECUTE_JOB_NAME, arguments_of(over), **signed)
    worker.wait_until_said(f"Refused run {over.run_id!r}", 1)
    return worker.log[before:]


@pytest.mark.parametrize("kind", GARBAGE)
def test_garbage_is_dropped_and_the_worker_goes_on(
    worker: Worker, home: dg.DagsterInstance, signed: dict[str, Any], kind: str
) -> None:
    with closing(redis.Redis.from_url(worker.broker.url)) as broker:
        broker.publish("/0.celery.pidbox", GARBAGE[kind])
        broker.lpush(QUEUE, GARBAGE[kind])
        assert "Traceback" not in takes_what_follows(worker, home, signed)
        assert broker.llen(QUEUE) == broker.hlen("unacked") == 0


def test_a_flood_of_garbage_does_not_fill_the_log(
    worker: Worker, home: dg.DagsterInstance, signed: dict[str, Any]
) -> None:
    with closing(redis.Redis.from_url(worker.broker.url)) as broker:
        broker.lpush(QUEUE, *[b"x"] * 5_000)
    said = takes_what_follows(worker, home, signed)
    assert len(said) < 20_000
    assert "Refused a message for 'dagster'" in worker.log


def test_keys_of_the_broker_that_are_no_messages_do_not_end_a_worker(worker: Worker) -> None:
    with closing(redis.Redis.from_url(worker.broker.url)) as broker:
        assert not broker.exists("unacked", "unacked_index"), "what was there at its start is thrown away"
        broker.set(QUEUE, "x")
        worker.wait_until_said("WRONGTYPE", 1)
        broker.delete(QUEUE)
    wait_until(worker.pongs, "it takes messages again", 120, log=lambda: worker.log)


@pytest.mark.parametrize(
    "forged",
    [
        {"headers": {"timelimit": [1, 1]}},
        {"headers": {"expires": "2001-01-01T00:00:00+00:00"}},
        {"headers": {"eta": "2101-01-01T00:00:00+00:00"}},
        {"headers": {"argsrepr": "something else"}},
        {"headers": {"id": "another"}},
        {"headers": {"task": "another"}},
        {"headers": {"compression": "gzip"}},
        {"properties": {"reply_to": "elsewhere"}},
        {"properties": {"correlation_id": "another"}},
        {"content-encoding": "utf-16"},
        {},
    ],
    ids=lambda forged: str(forged)[:40],
)
def test_a_signed_message_is_taken_as_it_was_sent_and_where_it_was_sent_to(
    worker: Worker, home: dg.DagsterInstance, signed: dict[str, Any], forged: dict[str, Any]
) -> None:
    over = home.create_run_for_job(innocent, status=dg.DagsterRunStatus.SUCCESS)
    with closing(redis.Redis.from_url(worker.broker.url)) as broker:
        # A queue that no worker takes from. The last one is not changed, and only put into another queue.
        queue = QUEUE if forged else "elsewhere"
        message = caught(worker, broker, queue, arguments_of(over), signed)
        for name, value in forged.items():
            message[name] = message[name] | value if isinstance(value, dict) else value
        broker.lpush(QUEUE, json.dumps(message))
        takes_what_follows(worker, home, signed)
        assert over.run_id not in worker.log


def caught(
    worker: Worker, broker: redis.Redis, queue: str, arguments: dict[str, Any], signed: dict[str, Any]
) -> dict[str, Any]:
    """A signed message for this queue, taken out of the broker before a worker has it."""
    other = worker.broker.url.rsplit("/", 1)[0] + "/5"
    with closing(Celery(broker=other, set_as_current=False)) as app, closing(redis.Redis.from_url(other)) as aside:
        app.conf.update(signed)
        app.send_task(TASK_EXECUTE_JOB_NAME, kwargs=arguments, queue=queue)
        taken = aside.rpop(queue)
    assert isinstance(taken, bytes)
    return dict(json.loads(taken))


def test_a_message_that_was_taken_and_not_finished_comes_back(
    worker: Worker, home: dg.DagsterInstance, signed: dict[str, Any]
) -> None:
    """What Celery puts back after a worker's death has the same signature."""
    over = home.create_run_for_job(innocent, status=dg.DagsterRunStatus.SUCCESS)
    with closing(redis.Redis.from_url(worker.broker.url)) as broker:
        message = caught(worker, broker, QUEUE, arguments_of(over), signed)
        broker.hset("unacked", "left", json.dumps([message, QUEUE, QUEUE]))
        broker.zadd("unacked_index", {"left": 0})
        with closing(Celery(broker=worker.broker.url, set_as_current=False)) as app:
            app.conf.update(signed)
            # Workers do so every minute or two, and when they start.
            with app.connection_for_read() as connection:
                connection.default_channel.qos.restore_visible()
        worker.wait_until_said(f"Refused run {over.run_id!r}", 1)


def test_a_run_that_does_not_wait_for_a_worker_is_not_run_again(
    worker: Worker, home: dg.DagsterInstance, signed: dict[str, Any]
) -> None:
    over = home.create_run_for_job(innocent, status=dg.DagsterRunStatus.SUCCESS)
    begun = home.create_run_for_job(innocent, status=dg.DagsterRunStatus.STARTED)
    unknown = over.with_status(over.status)._replace(run_id="00000000-0000-4000-8000-000000000000")
    for run in (over, begun, unknown):
        worker.send(TASK_EXECUTE_JOB_NAME, arguments_of(run), **signed)
        worker.wait_until_said(f"Refused run {run.run_id!r}", 1)


def test_a_key_that_can_be_guessed_is_refused(monkeypatch: pytest.MonkeyPatch, signed: dict[str, Any]) -> None:
    assert signed["accept_content"] == ["signed"]
    monkeypatch.setenv("DAGSTER_CELERY_SIGNING_KEY", "short")
    with pytest.raises(ValueError, match="expected at least 32 characters"):
        importlib.import_module("celery_messages").signed_messages()
