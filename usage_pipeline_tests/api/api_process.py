"""`usage-pipeline api` as a process of its own: it can run out of memory, files or workers without the tests."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from usage_pipeline.local.servers.ports import free_port, is_listening
from usage_pipeline.settings import Settings
from usage_pipeline_tests.rigs.commands import command_environment
from usage_pipeline_tests.rigs.waiting import wait_until

_START = """
import resource, sys
if len(sys.argv) > 1 and sys.argv[1].isdigit():
    resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]),) * 2)
    del sys.argv[1]
{prelude}
from usage_pipeline.cli import main
main()
"""


@dataclass(frozen=True)
class ApiProcess:
    """The process, its port, and the file of its log."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def workers(self) -> list[int]:
        """The process ids of living workers, as the log names them; of a single process its own."""
        found = [int(pid) for pid in re.findall(r"Started server process \[(\d+)\]", self.log.read_text())]
        return [pid for pid in found if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]

    def answers(self) -> bool:
        """Whether a new client gets an answer."""
        with suppress(httpx.TransportError):
            return httpx.get(f"{self.url}/", timeout=30, trust_env=False).status_code == 200
        return False


@contextmanager
def api_process(
    settings: Settings,
    folder: Path,
    *,
    workers: int = 1,
    open_files: int | None = None,
    prelude: str = "",
    **variables: str,
) -> Iterator[ApiProcess]:
    """Runs the service until the end of the block, then kills it with all its workers. `prelude` is Python that runs first."""
    port, log = free_port(), folder / "api.log"
    arguments = [*([str(open_files)] if open_files else []), "api", "--port", str(port), "--workers", str(workers)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", _START.format(prelude=prelude), *arguments],
            env=command_environment(settings) | variables,
            stderr=output,
            stdout=output,
            start_new_session=True,
        )
    running = ApiProcess(process, port, log)
    try:
        wait_until(
            lambda: is_listening(port) and len(running.workers()) == workers and running.answers(),
            "the service answers",
            120,
            log=log.read_text,
        )
        yield running
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
