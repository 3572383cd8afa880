"""What the benchmarks share: options, servers and services of their own, measuring in turns, peak memory, what is printed.

`python -m benchmarks.harness APP` serves a benchmark's app as `usage-pipeline api` serves its own.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

from usage_pipeline.api.server import STOP_SECONDS, serve
from usage_pipeline.local.servers.both import LocalServers
from usage_pipeline.local.servers.ports import LOOPBACK, free_port
from usage_pipeline.settings import Settings, load_settings
from usage_pipeline.storage.migrations import migrate
from usage_pipeline_tests.rigs.waiting import wait_until

Rates = dict[str, list[float]]
_STATUS = Path("/proc/self/status")
_PRINT_PEAK = """
import json as _json
_status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(_json.dumps({"answer": answer, "peak_kb": int(_status["VmHWM"].split()[0])}))
"""


def add_repeats(parser: argparse.ArgumentParser) -> None:
    """`--repeats`, where things are measured in turns."""
    parser.add_argument("--repeats", type=int, default=5, help="measurements of each kind; medians are shown")


def parsed(parser: argparse.ArgumentParser, *, tables: str = "a table") -> argparse.Namespace:
    """The options chosen; each benchmark has `--json` as its last one."""
    parser.add_argument("--json", action="store_true", help=f"print one JSON document instead of {tables}")
    return parser.parse_args()


def say(line: str) -> None:
    """How far it is, beside what is printed at the end."""
    Console(stderr=True).print(line, style="dim")


def show(document: Mapping[str, Any], tables: Iterable[Table], *, as_json: bool) -> None:
    """What was measured, once: as one JSON document, or as a person reads it."""
    if as_json:
        print(json.dumps(document))
        return
    for table in tables:
        Console().print(table)


def table_of(title: str, first: str, *numbers: str) -> Table:
    """An empty table: names in its first column, numbers in the others."""
    table = Table(title=title)
    table.add_column(first)
    for heading in numbers:
        table.add_column(heading, justify="right")
    return table


@contextmanager
def own_servers() -> Iterator[Settings]:
    """PostgreSQL with fsync and Redis with `appendfsync always`, migrated, in a temporary folder until the end of the block."""
    folder = Path(tempfile.mkdtemp(prefix="usage-pipeline-bench-"))
    folder.chmod(0o755)
    try:
        with LocalServers(folder) as servers:
            migrate(servers.database_url)
            yield load_settings(database_url=servers.database_url, redis_url=servers.redis_url)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def running_module(
    settings: Settings, *command: str, is_up: Callable[[], bool], what: str, **variables: str
) -> Iterator[subprocess.Popen[bytes]]:
    """`python -m command` on these servers, from when it is up until the end of the block.

    Raises RuntimeError when it ends before, TimeoutError when it takes over a minute.
    """
    environment = {
        **os.environ,
        "DATABASE_URL": settings.database_url.get_secret_value(),
        "REDIS_URL": settings.redis_dsn.get_secret_value(),
        **variables,
    }
    process = subprocess.Popen([sys.executable, "-m", *command], env=environment, stderr=subprocess.DEVNULL)

    def is_ready() -> bool:
        if process.poll() is not None:
            raise RuntimeError(f"expected {what}, but it ended with status {process.returncode}")
        return is_up()

    try:
        wait_until(is_ready, what, 60, poll_seconds=0.05)
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        # It gives what it has in hand a minute.
        process.wait(STOP_SECONDS + 60)


@contextmanager
def running_service(settings: Settings, *command: str, path: str = "/") -> Iterator[int]:
    """`python -m command` as a service that answers under this path, until the end of the block; its port."""
    port = free_port()

    def answers() -> bool:
        try:
            return httpx.get(f"http://{LOOPBACK}:{port}{path}", trust_env=False).is_success
        except httpx.HTTPError:
            return False

    with running_module(settings, *command, "--port", str(port), is_up=answers, what="the service answers"):
        yield port


class Timed:
    """How many things a second its block does."""

    def __init__(self, things: int) -> None:
        self._things = things
        self.per_second = 0.0

    def __enter__(self) -> "Timed":
        self._started = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.per_second = self._things / (time.perf_counter() - self._started)


def measure_in_turns(
    subjects: Mapping[str, Callable[[], float]],
    *,
    repeats: int,
    settle: Callable[[], None],
    say: Callable[[str], None] = say,
) -> Rates:
    """The rates of each subject, `repeats` times after a warm-up that is not counted; each round begins with another one."""
    names = list(subjects)
    rates: Rates = {name: [] for name in names}
    for repeat in range(repeats + 1):
        first = repeat % len(names)
        for name in names[first:] + names[:first]:
            settle()
            rate = subjects[name]()
            if repeat:
                rates[name].append(rate)
            say(f"{'warm-up' if not repeat else f'repeat {repeat}'}: {name} {rate:,.0f}/s")
    return rates


def medians(rates: Rates) -> dict[str, float]:
    return {name: median(found) for name, found in rates.items()}


def paired_ratio(rates: Rates, one: str, other: str) -> float:
    """The median of the ratios within each repeat, which hold although the machine's own speed comes and goes."""
    return median(a / b for a, b in zip(rates[one], rates[other], strict=True))


def answer_and_peak_mb(code: str, settings: Settings) -> tuple[Any, float | None]:
    """Runs Python code, which sets `answer`, in a process of its own, and says its peak memory in MB (None off Linux).

    The code finds the database's URL in sys.argv[1] and that of Redis in sys.argv[2].
    """
    urls = settings.database_url.get_secret_value(), settings.redis_dsn.get_secret_value()
    is_linux = _STATUS.exists()
    ending = _PRINT_PEAK if is_linux else 'import json as _json\nprint(_json.dumps({"answer": answer}))\n'
    done = subprocess.run([sys.executable, "-c", code + ending, *urls], check=True, capture_output=True, text=True)
    printed = json.loads(done.stdout)
    return printed["answer"], printed["peak_kb"] / 1024 if is_linux else None


def _serve_app() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("app", help="module:function that makes the app")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--workers", type=int, default=1)
    chosen = parser.parse_args()
    serve(port=chosen.port, workers=chosen.workers, app=chosen.app)


if __name__ == "__main__":
    _serve_app()
