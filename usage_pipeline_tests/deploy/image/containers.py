"""Services of compose as containers of podman on this machine's network: all that their files say of them, and no more."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from usage_pipeline_tests.deploy.image.engine import LIMITS, Engine
from usage_pipeline_tests.deploy.image.servers import Addresses
from usage_pipeline_tests.end_to_end.rigs.composed import SECRETS, composed_service
from usage_pipeline_tests.rigs.deployment_files import interpolated
from usage_pipeline_tests.rigs.waiting import wait_until

# Others' images, with servers that run beside the containers here.
_SERVERS = ("postgres", "redis", "celery-broker")


@dataclass
class Containers:
    """The services of both compose files. A name that is started twice replaces the first."""

    engine: Engine
    image: str
    addresses: Addresses
    # Of settings.env, for all of them.
    settings: dict[str, str] = field(default_factory=dict)

    def run(self, service: str, *command: str) -> str:
        """A service that ends, or another command in its place; what it prints."""
        options = [*self._options(service), "--rm"]
        return self.engine.run(
            *("podman", "run", *options, self.image, *(command or self._command(service))), timeout_seconds=300
        )

    def start(self, service: str) -> None:
        self.engine.start(service, self.image, self._options(service), self._command(service))

    def kill(self, service: str) -> None:
        """As when its machine dies: nothing of it is told, and nothing is left of it but its volumes."""
        self.engine.run("podman", "kill", "--signal", "KILL", service)
        self.engine.run("podman", "rm", "--force", "--time", "0", service)

    def stop(self, service: str) -> None:
        self.engine.run("podman", "stop", service, timeout_seconds=180)
        self.engine.run("podman", "rm", service)

    def wait_until_healthy(self, service: str, timeout_seconds: float = 300) -> None:
        """By the health check of compose, in the container."""
        kind, *test = composed_service(service)["healthcheck"]["test"]
        command = ["sh", "-c", *test] if kind == "CMD-SHELL" else test
        command = [self._localized(service, one) for one in command]

        def is_healthy() -> bool:
            state = self.engine.state(service)
            assert state.startswith("running"), f"{service}: {state}\n{self.engine.logs(service)}"
            return self.engine.execute(service, *command).returncode == 0

        wait_until(
            is_healthy,
            f"{service} is healthy",
            timeout_seconds,
            poll_seconds=0.5,
            log=lambda: self.engine.logs(service),
        )

    def _command(self, service: str) -> list[str]:
        return [self._localized(service, one) for one in composed_service(service)["command"]]

    def _options(self, service: str) -> list[str]:
        # The name is in the environment, too, as Docker has it.
        return [
            *LIMITS,
            "--network",
            "host",
            "--hostname",
            service,
            "--env",
            f"HOSTNAME={service}",
            *self._described(service),
        ]

    def _described(self, service: str) -> Iterator[str]:
        described = composed_service(service)
        limits = described["deploy"]["resources"]["limits"]
        yield from ("--memory", limits["memory"].lower(), "--pids-limit", str(limits["pids"]))
        if described.get("init"):
            yield "--init"
        if described.get("read_only"):
            # Without podman's own additions: what is writable is what compose names.
            yield from ("--read-only", "--read-only-tmpfs=false")
        for path in described.get("tmpfs", []):
            yield from ("--tmpfs", path)
        for capability in described.get("cap_drop", []):
            yield from ("--cap-drop", capability)
        for option in described.get("security_opt", []):
            yield from ("--security-opt", option.removesuffix(":true"))
        for volume in described.get("volumes", []):
            yield from ("--volume", volume)
        for name in _SERVERS:
            yield from ("--add-host", f"{name}:{self.addresses.of[name]}")
        for name, value in self._environment(service, described).items():
            yield from ("--env", f"{name}={value}")

    def _environment(self, service: str, described: dict[str, Any]) -> dict[str, str]:
        given = {name: value for name, value in described.get("environment", {}).items() if value is not None}
        # Asked by an address here, and not by a name of the machine.
        allowed = {"DAGSTER_UI_ALLOWED_HOSTS": self.addresses.of[service]} if service.startswith("webserver") else {}
        values = {name: interpolated(str(value), SECRETS) for name, value in given.items()}
        return self.settings | values | allowed

    def _localized(self, service: str, text: str) -> str:
        """What a service listens on, and is asked at by its health check."""
        text = interpolated(text, SECRETS)
        return (
            re.sub(r"0\.0\.0\.0|127\.0\.0\.1", self.addresses.of[service], text)
            if service in self.addresses.of
            else text
        )
