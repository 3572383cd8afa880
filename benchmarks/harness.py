"""What the benchmarks share: servers of their own, measuring in turns, the peak memory of a process."""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from usage_pipeline.local.servers.both import LocalServers
from usage_pipeline.settings import Settings, load_settings
from usage_pipeline.storage.migrations import migrate

Rates = dict[str, list[float]]
_STATUS = Path("/proc/self/status")
_PRINT_PEAK = """
import json as _json
_status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(_json.dumps({"answer": answer, "peak_kb": int(_status["VmHWM"].split()[0])}))
"""


@contextmanager
def own_servers() -> Iterator[Settings]:
    """PostgreSQL with fsync and Redis with `appendfsync always`, migrated, in a temporary folder until the end of the block."""
    folder = Path(tempfile.mkdtemp(prefix="usage-pipeline-bench-"))
    try:
        with LocalServers(folder) as servers:
            migrate(servers.database_url)
            yield load_settings(database_url=servers.database_url, redis_url=servers.redis_url)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


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
    say: Callable[[str], None],
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
