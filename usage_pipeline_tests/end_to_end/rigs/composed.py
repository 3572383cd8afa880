"""Services of deploy/*.yaml as processes: their commands, variables and health checks, with addresses of this machine."""

import os
import re
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from usage_pipeline.local.processes.children import Child, start_child
from usage_pipeline.local.servers.ports import LOOPBACK, free_port, is_listening
from usage_pipeline_tests.rigs.deployment_files import CELERY_COMPOSE, COMPOSE, DEPLOY, PROJECT, interpolated, services
from usage_pipeline_tests.rigs.waiting import wait_until

_PASSWORDS = ("POSTGRES", "USAGE_DB", "USAGE_API_DB", "USAGE_DRAIN_DB", "DAGSTER_DB", "REDIS", "CELERY_BROKER")
SECRETS = {f"{name}_PASSWORD": "secret" for name in _PASSWORDS} | {"CELERY_SIGNING_KEY": "k" * 64}
_PORTS = {"webserver": "3000", "webserver-read-only": "3000", "api": "8000"}
# The image's, from its Dockerfile.
_IMAGE_FOLDERS = ("/opt/dagster", "/data")


@dataclass
class Composed:
    """The services of both files, with Celery's laid over the first; what is started is stopped by whoever has `children`."""

    folder: Path
    postgres_socket: Path
    servers: Mapping[str, str]
    children: list[Child] = field(default_factory=list)
    ports: dict[str, int] = field(default_factory=lambda: {name: free_port() for name in _PORTS})

    def __post_init__(self) -> None:
        home = self.folder / "opt" / "dagster" / "home"
        celery = self.folder / "opt" / "dagster" / "celery"
        data, grpc = self.folder / "data", home.parent / "grpc"
        for path in (home / "storage", celery, grpc, data / "archive", data / "landing"):
            path.mkdir(parents=True)
        for path in (home / "logs", home / ".logs_queue", celery / "logs", celery / ".logs_queue"):
            path.mkdir()
        instance, launcher = PROJECT / "dagster.yaml", DEPLOY / "celery" / "run_launcher.yaml"
        (home / "dagster.yaml").write_bytes(instance.read_bytes())
        (celery / "dagster.yaml").write_bytes(instance.read_bytes() + launcher.read_bytes())
        (celery / "storage").symlink_to("../home/storage")
        for module in (DEPLOY / "celery").glob("*.py"):
            (celery / module.name).write_bytes(module.read_bytes())
        workspace = (DEPLOY / "workspace.yaml").read_text()
        (home.parent / "workspace.yaml").write_text(self._localized("code", workspace))

    def run(self, service: str) -> None:
        """A service that ends, such as a migration."""
        command, environment = self._command(service), self._environment(service)
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, f"{service}: {done.stdout}{done.stderr}"

    def start(self, service: str, *more: str, **variables: str) -> Child:
        """A service that stays; `more` goes behind its command."""
        child = start_child(
            f"{service}-{len(self.children)}",
            [*self._command(service), *more],
            mark=str(self.folder),
            environment=self._environment(service) | variables,
            folder=self.folder,
            log=self.folder / "logs" / f"{service}-{len(self.children)}.log",
        )
        self.children.append(child)
        return child

    def wait_until_healthy(self, service: str, child: Child, *, timeout_seconds: float = 120, **variables: str) -> None:
        """Asks by the health check of the service, as Docker would."""
        kind, *test = composed_service(service)["healthcheck"]["test"]
        command = ["sh", "-c", *test] if kind == "CMD-SHELL" else test
        command = [self._localized(service, argument) for argument in command]

        def is_healthy() -> bool:
            assert not child.has_ended, f"{service} ended:\n{child.log_tail()}"
            # Most of what a check takes is its imports.
            if service in self.ports and not is_listening(self.ports[service]):
                return False
            environment = self._environment(service) | variables
            asked = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
            return asked.returncode == 0

        wait_until(is_healthy, f"{service} is healthy", timeout_seconds, poll_seconds=0.2, log=child.log_tail)

    def url(self, service: str) -> str:
        return f"http://{LOOPBACK}:{self.ports[service]}"

    def _command(self, service: str) -> list[str]:
        return [self._localized(service, argument) for argument in composed_service(service)["command"]]

    def _environment(self, service: str) -> dict[str, str]:
        """The image's and the service's variables and no others, so that what compose forgets is missing here, too."""
        given = {"DAGSTER_HOME": "/opt/dagster/home", "PYTHONUNBUFFERED": "1"} | composed_service(service).get(
            "environment", {}
        )
        # Without a value it comes from deploy/.env, which is not here.
        given = {name: value for name, value in given.items() if value is not None}
        mine = {name: self.servers.get(name) or self._localized(service, str(value)) for name, value in given.items()}
        basic = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "HOME": str(self.folder)}
        return basic | mine | {"HOSTNAME": socket.gethostname(), "ENABLE_JOB_SCHEDULER": "false"}

    def _localized(self, service: str, text: str) -> str:
        text = interpolated(text, SECRETS).replace("0.0.0.0", LOOPBACK)  # noqa: S104
        # Each service keeps the role that its file gives it.
        text = re.sub(r"@postgres:5432/(\w+)", rf"@/\1?host={self.postgres_socket}", text)
        for folder in _IMAGE_FOLDERS:
            text = text.replace(folder, f"{self.folder}{folder}")
        return text.replace(_PORTS[service], str(self.ports[service])) if service in _PORTS else text


def composed_service(name: str) -> dict[str, Any]:
    """A service of compose, with Celery's file laid over the first."""
    base, celery = services(COMPOSE).get(name, {}), services(CELERY_COMPOSE).get(name, {})
    return base | celery | {"environment": base.get("environment", {}) | celery.get("environment", {})}
