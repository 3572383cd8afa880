"""Drives the HTTP service at all its limits at once, and shows what it took of memory and how long its loops stood still.

Run, as root on Linux: nice -n -5 python -m benchmarks.worst_load [--seconds N] [--real-time] [--stacks] [--json]
"""

import argparse
import json
import multiprocessing
import os
import resource
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import psutil
import psycopg
from rich.table import Table

from benchmarks.harness import own_servers, parsed, running_service, say, show, table_of
from benchmarks.worst_load import clients
from benchmarks.worst_load.bodies import Body, all_bodies
from benchmarks.worst_load.watched import FOLDER, INTERVAL_SECONDS, REAL_TIME, waited_for_a_core
from usage_pipeline.access.tokens import create_token
from usage_pipeline.api.memory import most_memory
from usage_pipeline.events.ingest.batches import EVENTS, ingest
from usage_pipeline.local.servers.ports import LOOPBACK
from usage_pipeline.settings import Settings
from usage_pipeline_tests.rigs.deployment_files import COMPOSE, services
from usage_pipeline_tests.rigs.events import as_items, event
from usage_pipeline_tests.rigs.service import EVENTS_PATH

_SENDERS_OF_A_BODY = 2
_ROWS = 60_000
# Ids as long as they may be, of the widest characters.
_INSERT_ROWS = """
insert into usage.provider_usage (api_key_id, provider, user_id, upload_count, total_file_size, last_used_at)
select lpad(n::text, 8, '0') || repeat('😀', 192), repeat('😀', 200), repeat('😀', 200), n, n, now()
from generate_series(1, %s) as n
"""
_SAMPLE_SECONDS = 0.05
_CLIENTS_NICE = 10


@dataclass(frozen=True, slots=True)
class Delays:
    """How long something took, in ms."""

    count: int
    p50: float
    p99: float
    longest: float
    over_100: int

    @classmethod
    def of(cls, seconds: Sequence[float]) -> "Delays":
        found = sorted(max(0.0, one) * 1000 for one in seconds) or [0.0]
        at = [found[int(share * (len(found) - 1))] for share in (0.5, 0.99)]
        return cls(len(seconds), round(at[0], 1), round(at[1], 1), round(found[-1], 1), sum(one > 100 for one in found))


@dataclass(slots=True)
class Memory:
    """The most that was resident at a time, in bytes. Pages that processes share count for each: a container has less."""

    together: int = 0
    each: dict[int, int] = field(default_factory=dict)

    def look(self, main: int) -> None:
        total = 0
        for pid in [main, *(child.pid for child in psutil.Process(main).children(recursive=True))]:
            with suppress(OSError, IndexError):
                size = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()
                total += size
                self.each[pid] = max(size, self.each.get(pid, 0))
        self.together = max(self.together, total)


def workers_of_compose() -> int:
    command: list[str] = services(COMPOSE)["api"]["command"]
    return int(command[command.index("--workers") + 1])


def limit_of_compose() -> int:
    """Bytes that the container of the service may take."""
    text: str = services(COMPOSE)["api"]["deploy"]["resources"]["limits"]["memory"]
    return int(text.removesuffix("M")) * 2**20


def asks(port: int, ends: Event, priority: int) -> list[tuple[float, float]]:
    """A small request every 10 ms on a kept connection: how long its answer took, and how long we waited for a core."""
    os.nice(priority)
    connection, found = _probe(port), []
    while not ends.is_set():
        began_at, for_core = time.perf_counter(), waited_for_a_core()
        try:
            connection.request("GET", "/", headers={"Accept": "application/json"})
            connection.getresponse().read()
        except OSError:
            connection.close()
            connection = _probe(port)
            continue
        found.append((time.perf_counter() - began_at, waited_for_a_core() - for_core))
        time.sleep(INTERVAL_SECONDS)
    return found


def _probe(port: int) -> HTTPConnection:
    return HTTPConnection(LOOPBACK, port, timeout=60, source_address=("127.0.2.1", 0))


def sleeps(ends: Event) -> list[float]:
    """The floor: how much later than asked sleeps of 10 ms end in a process that does nothing else."""
    found = []
    while not ends.is_set():
        before = time.perf_counter()
        time.sleep(INTERVAL_SECONDS)
        found.append(time.perf_counter() - before - INTERVAL_SECONDS)
    return found


def _into(results: Any, name: str, work: Any, *arguments: Any) -> None:
    if work not in (asks, sleeps):
        # The clients are other machines: the cores are the service's first.
        os.nice(_CLIENTS_NICE)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    results.put((name, work(*arguments)))


def prepared(settings: Settings) -> tuple[list[tuple[Body, str]], dict[str, list[str]]]:
    """Bodies with a token for each, and tokens by what they are for. What the bodies and readers need is stored."""
    bodies = [body for number in range(_SENDERS_OF_A_BODY) for body in all_bodies(settings, number)]
    with psycopg.connect(settings.database_url.get_secret_value(), autocommit=True) as connection:

        def token(scope: str, **options: Any) -> str:
            return create_token(connection, "worst load", [scope], **options).token

        connection.execute(_INSERT_ROWS, (_ROWS,))
        connection.execute("analyze usage.provider_usage")
        for body in bodies:
            for first in range(0, len(body.ids), 1_000):
                stored = as_items(*(event(event_id=one) for one in body.ids[first : first + 1_000]))
                ingest(connection, EVENTS, stored, source="worst load", settings=settings)
        tokens = {
            "slow": [token("ingest") for _ in range(3)],
            "read": [token("read") for _ in range(6)],
            "quota": [token("read", quota=10**6), token("read", quota=50)],
        }
        return [(body, token("ingest")) for body in bodies], tokens


def load(
    port: int, settings: Settings, bodies: Sequence[tuple[Body, str]], tokens: dict[str, list[str]]
) -> Iterator[tuple[Any, ...]]:
    """What each client process runs: a name, a function of `clients`, and its arguments after the port and the end."""
    each = settings.max_connections_per_address
    page = "/api/usage/providers?limit=1000"
    files = [f"/api/usage/providers?format={kind}" for kind in ("csv", "parquet")]
    small = ["/metrics", "/healthz", "/docs", "/api/rankings/models", "/api/usage/models/daily", "/api/usage/summary"]
    read = tokens["read"]
    yield "half a head", clients.half_heads, list(clients.addresses(1, 6)), each // 2
    yield "pages that nobody reads", clients.unread, list(clients.addresses(11, 2)), each // 2, page, read[0]
    yield "files that nobody reads", clients.unread, list(clients.addresses(21, 1)), each // 4, _largest_file(port), ""
    yield "invented tokens", clients.strangers, list(clients.addresses(31, 3)), 10
    paths = [
        (files[0], read[1]),
        (files[0], read[2]),
        (files[1], read[3]),
        (files[1], read[4]),
        (page, read[5]),
        (page, read[0]),
    ]
    yield "readers", clients.readers, list(clients.addresses(41, 1)), paths
    limited = [(path, token) for token in tokens["quota"] for path in small[3:]]
    yield (
        "small requests",
        clients.readers,
        list(clients.addresses(42, 1)),
        [*limited, *((path, "") for path in small[:3])],
    )
    half = len(bodies) // 2
    yield "bodies", clients.senders, list(clients.addresses(51, 4)), bodies[:half]
    yield "more bodies", clients.senders, list(clients.addresses(55, 4)), bodies[half:]
    yield "slow bodies", clients.slow_senders, list(clients.addresses(61, 3)), 50, EVENTS_PATH, tokens["slow"]


def _largest_file(port: int) -> str:
    """The bundle of `/docs`, 1.7 MB for a client that does not take gzip."""
    connection = HTTPConnection(LOOPBACK, port, timeout=60)
    connection.request("GET", "/docs", headers={"Accept": "text/html"})
    page = connection.getresponse().read().decode()
    connection.close()
    [script] = [part.split('"')[0] for part in page.split('src="')[1:] if "bundle" in part.split('"')[0]]
    return f"/{script.lstrip('./')}"


@contextmanager
def running_all(jobs: Sequence[tuple[Any, ...]], port: int, results: Any, ends: Event) -> Iterator[None]:
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(target=_into, args=(results, name, work, port, ends, *arguments), daemon=True)
        for name, work, *arguments in jobs
    ]
    processes += [
        context.Process(target=_into, args=(results, "asks", asks, port, ends, -5), daemon=True),
        context.Process(target=_into, args=(results, "sleeps", sleeps, ends), daemon=True),
    ]
    for process in processes:
        process.start()
    try:
        yield
    finally:
        ends.set()


def measure(settings: Settings, *, seconds: float) -> dict[str, Any]:
    """All of it: what was resident, how late loops and answers were, and what the clients saw."""
    say("bodies and rows are made")
    bodies, tokens = prepared(settings)
    context = multiprocessing.get_context("fork")
    ends, results = context.Event(), context.Queue()
    memory = Memory()
    workers = workers_of_compose()
    with tempfile.TemporaryDirectory() as folder:
        os.environ[FOLDER] = folder
        command = ("benchmarks.harness", "benchmarks.worst_load.watched:app", "--workers", str(workers))
        with running_service(settings, *command) as port:
            [main] = [one.pid for one in psutil.Process().children() if "benchmarks.harness" in one.cmdline()]
            memory.look(main)
            at_rest = memory.together
            jobs = list(load(port, settings, bodies, tokens))
            say(f"{len(jobs)} kinds of clients for {seconds:g} s")
            with running_all(jobs, port, results, ends):
                stop_at = time.monotonic() + seconds
                while time.monotonic() < stop_at:
                    memory.look(main)
                    time.sleep(_SAMPLE_SECONDS)
                alive = {one.pid for one in psutil.Process(main).children(recursive=True)}
            seen = dict(results.get(timeout=180) for _ in range(len(jobs) + 2))
        loops = [_loop(path) for path in sorted(Path(folder).glob("loop-*.jsonl"))]
    asked, slept = seen.pop("asks"), seen.pop("sleeps")
    delays = [row for rows, _ in loops for row in rows]
    return {
        "seconds": seconds,
        "workers": workers,
        "workers_started": len(loops),
        "workers_died": len(loops) - workers,
        "memory": {
            "limit_mb": limit_of_compose() >> 20,
            "formula_mb": most_memory(settings, workers) >> 20,
            "at_rest_mb": at_rest >> 20,
            "peak_mb": memory.together >> 20,
            "of_each_mb": sorted((size >> 20 for size in memory.each.values()), reverse=True),
            "processes_at_the_end": len(alive),
        },
        "delays": {
            "loop": asdict_of(Delays.of([late for late, _, _ in delays])),
            "loop, without waiting for a core": asdict_of(Delays.of([late - core for late, core, _ in delays])),
            "loop, busy itself": asdict_of(Delays.of([busy for _, _, busy in delays])),
            "a small request": asdict_of(Delays.of([took for took, _ in asked])),
            "a small request, its client's waiting for a core": asdict_of(Delays.of([core for _, core in asked])),
            "a process that sleeps": asdict_of(Delays.of(slept)),
        },
        "seen": {name: dict(sorted(counts.items())) for name, counts in seen.items()},
        "longest": [stack for _, stacks in loops for stack in stacks],
    }


def asdict_of(delays: Delays) -> dict[str, float]:
    return {name: getattr(delays, name) for name in Delays.__slots__}


def _loop(path: Path) -> tuple[list[tuple[float, float, float]], list[Any]]:
    rows, stacks = [], []
    for line in path.read_text().splitlines():
        note = json.loads(line)
        rows += [tuple(row) for row in note["delays"]]
        stacks += note["stacks"]
    return rows, stacks


def tables(result: dict[str, Any]) -> list[Table]:
    """What was measured, as a person reads it."""
    memory = result["memory"]
    first = table_of(f"resident memory, {result['seconds']:g} s, {result['workers']} workers", "", "MB")
    for name, value in memory.items():
        first.add_row(name, str(value))
    first.add_row("workers that died", str(result["workers_died"]))
    second = table_of("delays in ms", "", "count", "p50", "p99", "longest", "over 100")
    for name, found in result["delays"].items():
        second.add_row(name, *(f"{value:,}" for value in found.values()))
    third = table_of("what the clients saw", "", "times")
    for name, counts in result["seen"].items():
        for what, times in counts.items():
            third.add_row(f"{name}: {what}", f"{times:,}")
    return [first, second, third]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=75, help="how long the load goes on")
    parser.add_argument(
        "--real-time",
        action="store_true",
        help="the service goes before all other processes: what its own pauses are where clients and servers share its cores",
    )
    parser.add_argument("--stacks", action="store_true", help="show who held the interpreter when a loop was late")
    chosen = parsed(parser, tables="tables")
    if chosen.real_time:
        os.environ[REAL_TIME] = "yes"
    wanted = 20_000
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(wanted, resource.getrlimit(resource.RLIMIT_NOFILE)[1])))
    with own_servers() as settings:
        result = measure(settings, seconds=chosen.seconds)
    longest = result.pop("longest")
    show(result, tables(result), as_json=chosen.json)
    if chosen.stacks:
        for stack in sorted(longest, key=lambda one: -one["late"])[:20]:
            print(json.dumps(stack, indent=1))


if __name__ == "__main__":
    main()
