"""The liveness probe of Kubernetes, against a service that is stuck: it accepts connections, and answers none."""

import signal
import socket
import sys
from pathlib import Path

import httpx
import psutil
import pytest

from usage_pipeline.local.processes.children import start_child, stop_children
from usage_pipeline.local.servers.ports import LOOPBACK, free_port
from usage_pipeline_tests.rigs.deployment_files import DEPLOY, documents
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
