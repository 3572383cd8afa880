"""Probes of Kubernetes and health checks of compose, against what is stuck: it is there, and does nothing."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import psycopg
import pytest

from usage_pipeline.local.processes.children import start_child, stop_children
from usage_pipeline.local.servers.ports import LOOPBACK, free_port
from usage_pipeline.settings import Settings
from usage_pipeline_tests.rigs.commands import Run, command_environment
from usage_pipeline_tests.rigs.deployment_files import COMPOSE, DEPLOY, documents, interpolated, services
from usage_pipeline_tests.rigs.waiting import wait_until


def test_a_stuck_service_fails_its_liveness_probe_and_passes_no_time_that_kills_a_busy_one(
    folder: Path, database_url: str, redis_url: str
) -> None:
    deployment, *_ = documents(DEPLOY / "kubernetes" / "api.yaml")
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    probe = container["livenessProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] >= 120
    port = free_port()
    url = f"http://{LOOPBACK}:{port}{probe['httpGet']['path']}"
    command = [sys.executable, "-m", "usage_pipeline.cli", "api", "--host", LOOPBACK, "--port", str(port)]
    environment = {"DATABASE_URL": database_url, "REDIS_URL": redis_url}
    log = folder / "api.log"
    child = start_child("api", command, mark=str(folder), environment=environment, folder=folder, log=log)

    def is_alive() -> bool:
        try:
            # As the kubelet: any status from 200 to 399.
            return httpx.get(url, timeout=probe["timeoutSeconds"], trust_env=False).is_success
        except httpx.TransportError:
            return False

    try:
        wait_until(is_alive, "the service answers", 120, log=child.log_tail)
        process = psutil.Process(child.process.pid)
        process.suspend()
        wait_until(lambda: process.status() == psutil.STATUS_STOPPED, "it stands still")
        # Which is all that a probe of the port sees.
        with socket.create_connection((LOOPBACK, port), timeout=10):
            pass
        with pytest.raises(httpx.ReadTimeout):
            httpx.get(url, timeout=2, trust_env=False)
        process.send_signal(signal.SIGCONT)
        wait_until(is_alive, "it answers again", 60, log=child.log_tail)
    finally:
        psutil.Process(child.process.pid).send_signal(signal.SIGCONT)
        stop_children([child])


CONTAINERS_FILE = "/tmp/drain"  # noqa: S108


@dataclass
class Worker:
    """`drain --watch`, with its heartbeat in `file`."""

    file: Path
    process: subprocess.Popen[bytes]

    def passes(self, command: list[str]) -> bool:
        here = [one.replace(CONTAINERS_FILE, str(self.file)) for one in command]
        return subprocess.run(here, timeout=20, check=False).returncode == 0


@pytest.fixture
def worker(folder: Path, settings: Settings) -> Iterator[Worker]:
    file = folder / "drain"
    command = [sys.executable, "-m", "usage_pipeline.cli", "drain", "--watch", "--heartbeat", str(file)]
    environment = command_environment(settings) | {"METRICS_SYNC_INTERVAL_MS": "100", "CONNECT_TIMEOUT_SECONDS": "1"}
    with subprocess.Popen(command, env=environment) as process:
        try:
            yield Worker(file, process)
        finally:
            process.send_signal(signal.SIGCONT)
            process.terminate()
            process.wait(60)


def probes() -> dict[str, list[str]]:
    [deployment] = documents(DEPLOY / "kubernetes" / "drain.yaml")
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    found = {name: container[name]["exec"]["command"] for name in ("readinessProbe", "livenessProbe", "startupProbe")}
    _, script = services(COMPOSE)["drain"]["healthcheck"]["test"]
    return found | {"compose": ["sh", "-c", interpolated(script, {})]}


def test_a_worker_that_is_hindered_is_alive_and_not_ready_and_one_that_is_stuck_is_neither(
    worker: Worker, postgres: psycopg.Connection
) -> None:
    ready, alive, begun, healthy = probes().values()
    for probe in (ready, alive, begun, healthy):
        wait_until(lambda probe=probe: worker.passes(probe), f"{probe} passes", 120)
    # Somebody else drains, so that it waits.
    query = """select pg_terminate_backend(pid, 5000) from pg_stat_activity
        where pid <> pg_backend_pid() and datname = current_database() and application_name like 'usage_pipeline%'"""
    take = "select pg_try_advisory_lock(hashtext('drain'), hashtext('token'))"

    def is_taken() -> bool:
        postgres.execute(query)
        return postgres.execute(take).fetchone() == (True,)

    wait_until(is_taken, "another one has the lock", 60)
    for probe in (ready, healthy):
        wait_until(lambda probe=probe: not worker.passes(probe), f"{probe} fails", 60)
    assert worker.file.read_text().startswith("waits: ")
    assert worker.passes(alive)
    postgres.execute("select pg_advisory_unlock(hashtext('drain'), hashtext('token'))")
    wait_until(lambda: worker.passes(ready), "it is ready again", 60)
    worker.process.send_signal(signal.SIGSTOP)
    wait_until(lambda: psutil.Process(worker.process.pid).status() == psutil.STATUS_STOPPED, "it stands still", 60)
    six_minutes_ago = time.time() - 360
    os.utime(worker.file, (six_minutes_ago, six_minutes_ago))
    for probe in (alive, healthy):
        assert not worker.passes(probe)


def test_a_heartbeat_that_cannot_be_written_is_refused_at_the_start(run: Run, tmp_path: Path) -> None:
    done = run("drain", "--watch", "--heartbeat", str(tmp_path / "nowhere" / "drain"))
    assert done.returncode == 2
    assert "--heartbeat: expected a file that can be written" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert run("drain", "--heartbeat", str(tmp_path / "drain")).returncode == 2
