"""Launchers as processes of their own, so that they can be signalled and killed like a user's."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from usage_pipeline.local.children import stop_left_overs
from usage_pipeline.local.postgres_server import stop_postgres
from usage_pipeline.local.redis_server import stop_left_over_redis


class Launcher:
    """A process with a folder; what it prints can be waited for."""

    def __init__(self, code: str, **environment: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", code],
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._output: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self._output.extend(self.process.stdout)

    @property
    def output(self) -> str:
        return "".join(self._output)

    def wait_until(self, condition: Callable[[], bool], timeout_seconds: float = 60) -> None:
        """Until then the process must not end, nor the time."""
        deadline = time.monotonic() + timeout_seconds
        while not condition():
            assert self._reader.is_alive(), f"ended early:\n{self.output}"
            assert time.monotonic() < deadline, f"waited in vain; it said:\n{self.output}"
            self._reader.join(0.05)

    def wait_for(self, pattern: str, timeout_seconds: float = 60) -> re.Match[str]:
        self.wait_until(lambda: re.search(pattern, self.output) is not None, timeout_seconds)
        match = re.search(pattern, self.output)
        assert match is not None
        return match

    def wait(self, timeout_seconds: float = 60) -> int:
        status = self.process.wait(timeout_seconds)
        self._reader.join(timeout_seconds)
        return status

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder for data, where nothing runs any more afterwards, even if a test failed half-way."""
    path = Path(tempfile.mkdtemp(prefix="usage-pipeline-local-")).resolve()
    yield path
    stop_left_overs(str(path))
    stop_postgres(path / "postgres")
    stop_left_over_redis(path / "redis")
    shutil.rmtree(path)


@pytest.fixture
def launch(folder: Path) -> Iterator[Callable[..., Launcher]]:
    """Start a launcher; those that still run at the end of the test are killed."""
    launchers: list[Launcher] = []

    def start(code: str, **environment: str) -> Launcher:
        launchers.append(Launcher(code, **environment))
        return launchers[-1]

    yield start
    for launcher in launchers:
        launcher.kill()


@pytest.fixture
def is_alive() -> Callable[[int], bool]:
    def check(pid: int) -> bool:
        try:
            return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    return check
