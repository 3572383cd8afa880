"""The HTTP service as a process that is killed and started again."""

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import httpx

from usage_pipeline.local.servers.ports import free_port
from usage_pipeline.settings import Settings
from usage_pipeline_tests.rigs.waiting import wait_until


class ServiceProcess:
    """`usage-pipeline api` on one port, killed and started again."""

    def __init__(self, settings: Settings, log: Path, **variables: str) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"
        self._environment = os.environ | {
            "DATABASE_URL": settings.database_url.get_secret_value(),
            "REDIS_URL": settings.redis_dsn.get_secret_value(),
            "USAGE_TIMEZONE": settings.usage_timezone,
            "ROLLUP_TAGS": settings.rollup_tags,
            **variables,
        }
        self._log = log
        self._process = self._start()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def start(self) -> None:
        self._process = self._start()

    def kill_and_start(self) -> None:
        self.kill()
        self.start()

    def stop(self) -> None:
        self._process.terminate()
        try:
            assert self._process.wait(60) == 0
        finally:
            self._process.kill()

    def wait_until_it_answers(self) -> None:
        def answers() -> bool:
            with suppress(httpx.TransportError):
                if httpx.get(f"{self.url}/healthz", trust_env=False).status_code == 200:
                    return True
            assert self._process.poll() is None, self._log.read_text()
            return False

        wait_until(answers, "the service answers", poll_seconds=0.05, log=self._log.read_text)

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "usage_pipeline.cli", "api", "--port", self.url.rpartition(":")[2]]
        with self._log.open("ab") as log:
            return subprocess.Popen(command, env=self._environment, stdout=log, stderr=subprocess.STDOUT)
