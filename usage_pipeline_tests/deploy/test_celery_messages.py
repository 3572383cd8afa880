"""What reaches a Celery worker through its broker: a run that waits, in a signed message, and nothing else."""

import importlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
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
    for settings, refused in (({}, "unregistered task of type 'execute_plan'"), (signed, "unregistered task")):
        taken = worker.log.count(refused)
        worker.send(TASK_EXECUTE_PLAN_NAME, attack(home, f"id > {proof}"), **settings)
        worker.wait_until_said(refused, taken + 1)
    assert not proof.exists()


@pytest.fixture(scope="module")
def signed() -> Iterator[dict[str, Any]]:
    """Settings of whoever has the key."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(CELERY)
        patch.setattr(sys, "dont_write_bytecode", True)
        patch.setenv("DAGSTER_CELERY_SIGNING_KEY", KEY)
        yield importlib.import_module("celery_messages").signed_messages()


def arguments_of(run: dg.DagsterRun) -> dict[str, Any]:
    """As Dagster's launcher makes them."""
    origin = JobPythonOrigin("any", RepositoryPythonOrigin(sys.executable, ModuleCodePointer("any", "any", None)))
    return {"execute_job_args_packed": pack_value(ExecuteRunArgs(origin, run.run_id, None))}


def test_a_run_is_not_started_by_who_has_the_password_of_the_broker_only(
    worker: Worker, home: dg.DagsterInstance, signed: dict[str, Any]
) -> None:
    run = home.create_run_for_job(innocent, status=dg.DagsterRunStatus.STARTING)
    worker.send(TASK_EXECUTE_JOB_NAME, arguments_of(run))
    worker.wait_until_said("Refusing to deserialize untrusted content of type json", 1)
    messages = importlib.import_module("celery_messages")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGSTER_CELERY_SIGNING_KEY", "x" * 48)
        worker.send(TASK_EXECUTE_JOB_NAME, arguments_of(run), **messages.signed_messages())
        patch.setenv("DAGSTER_CELERY_SIGNING_KEY", KEY)
        assert messages.signed_messages() == signed
    worker.wait_until_said("expected a message that is signed", 1)
    found = home.get_run_by_id(run.run_id)
    assert found is not None
    assert found.status is dg.DagsterRunStatus.STARTING


def test_a_worker_is_not_stopped_by_who_has_the_password_of_the_broker_only(worker: Worker) -> None:
    with closing(Celery(broker=worker.broker.url, set_as_current=False)) as app:
        app.control.shutdown()
    # What answers this took the other message before.
    assert worker.pongs()
    assert not worker.process.has_ended


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
