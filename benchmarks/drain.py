"""How fast API key hashes get from Redis into PostgreSQL, against the one-key loop and against PostgreSQL's own floor.

Everything is measured in turns within one run, on embedded servers in a temporary folder, so that the ratios hold
although the machine's own speed comes and goes. Run: python -m benchmarks.drain [--keys N] [--repeats N] [--json]
"""

import argparse
import gc
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import hiredis
from rich.console import Console
from rich.table import Table

from usage_pipeline.counters import keys as names
from usage_pipeline.counters.drain_round import drain_once
from usage_pipeline.counters.redis_source import drainer_name
from usage_pipeline.local.servers import LocalServers
from usage_pipeline.settings import Settings, load_settings
from usage_pipeline.storage.migrations import migrate
from usage_pipeline.storage.postgres import connect
from usage_pipeline.storage.redis import PinnedConnection, client
from usage_pipeline.storage.sql import load

LOOP_SAMPLE_KEYS = 2_000
LARGEST_MEMORY_MB = 120
_FIELDS = ("total_requests", "successful_requests", "failed_requests", "total_file_size", "total_files_uploaded")
_UPSERT = """
insert into usage.api_keys as t (
    api_key_id, total_requests, successful_requests, failed_requests, total_file_size, total_files_uploaded, last_used_at
)
values (%s, %s, %s, %s, %s, %s, to_timestamp(%s / 1000.0))
on conflict (api_key_id) do update
set total_requests = t.total_requests + excluded.total_requests,
    successful_requests = t.successful_requests + excluded.successful_requests,
    failed_requests = t.failed_requests + excluded.failed_requests,
    total_file_size = t.total_file_size + excluded.total_file_size,
    total_files_uploaded = t.total_files_uploaded + excluded.total_files_uploaded,
    last_used_at = greatest(t.last_used_at, excluded.last_used_at),
    updated_at = now()
"""
_DRAIN_ALONE = """
import json, sys
from usage_pipeline.counters.drain_round import drain_once
from usage_pipeline.settings import load_settings

report = drain_once(load_settings(database_url=sys.argv[1], redis_url=sys.argv[2]), ["api_key"])
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(json.dumps({"keys": report.keys, "peak_kb": int(status["VmHWM"].split()[0])}))
"""


@dataclass(frozen=True, slots=True)
class Result:
    """Medians over the repeats: rates in keys a second, ratios paired within a repeat. Memory in MB, None off Linux."""

    keys: int
    repeats: int
    loop_per_second: float
    drain_announced_per_second: float
    drain_scanned_per_second: float
    write_floor_per_second: float
    announced_to_loop: float
    scanned_to_loop: float
    announced_to_floor: float
    scanned_to_floor: float
    drain_peak_mb: float | None


class Bench:
    """Servers, connections, and the things to measure; each measures only itself and leaves Redis without live keys."""

    def __init__(self, settings: Settings, keys: int) -> None:
        self._settings = settings
        self._keys = keys
        self._postgres = connect(settings)
        self._redis = client(settings)
        self._now_ms = int(time.time() * 1000)
        self._written = 0

    def loop(self) -> float:
        """Keys a second of HGETALL, upsert and commit, DEL, one key at a time."""
        sample = min(LOOP_SAMPLE_KEYS, self._keys)
        self._write_keys(sample)
        live = list(self._redis.scan_iter("apikey:*:metrics", count=10_000))
        with _timed(sample) as rate:
            for key in live:
                fields = self._redis.hgetall(key)
                api_key_id = key.decode().split(":", 1)[1].removesuffix(":metrics")
                counts = [int(fields[name.encode()]) for name in _FIELDS]
                self._postgres.execute(_UPSERT, (api_key_id, *counts, int(fields[b"last_used_at"])))
                self._redis.delete(key)
        return rate.per_second

    def drain(self, *, announced: bool) -> float:
        """Keys a second of `drain_once`, connections included, over keys that were announced or must be scanned for."""
        self._write_keys(self._keys)
        if announced:
            self._announce()
            self._redis.set(names.scan_pause("api_key"), drainer_name(), px=300_000)
            self._redis.set(names.scan_pause("claim:api_key"), drainer_name(), px=300_000)
        else:
            self._redis.delete(names.scan_pause("api_key"), names.scan_pause("claim:api_key"))
        with _timed(self._keys) as rate:
            report = drain_once(self._settings, ["api_key"])
        if report.keys != self._keys or report.dead_letters:
            raise RuntimeError(f"expected {self._keys} keys drained, came {report.keys}")
        return rate.per_second

    def write_floor(self) -> float:
        """Keys a second of COPY out of ready buffers and the upsert of the totals: same chunks, no raw, no ledger."""
        buffers = list(self._copy_buffers())
        postgres = self._postgres
        stage, upsert = load("counters/stage_api_key"), load("counters/upsert_totals_api_key")
        with _timed(self._keys) as rate:
            for buffer in buffers:
                with postgres.transaction():
                    postgres.execute(stage)
                    with postgres.cursor() as cursor, cursor.copy("copy staged_api_key from stdin") as copy:
                        copy.write(buffer)
                    postgres.execute(upsert)
        self._written += self._keys
        return rate.per_second

    def peak_mb(self) -> float | None:
        """Peak memory of a process that drains all keys and imports nothing but the counters."""
        self._write_keys(self._keys)
        if not Path("/proc/self/status").exists():
            drain_once(self._settings, ["api_key"])
            return None
        dsn, redis_dsn = self._settings.database_url.get_secret_value(), self._settings.redis_dsn.get_secret_value()
        done = subprocess.run(
            [sys.executable, "-c", _DRAIN_ALONE, dsn, redis_dsn], check=True, capture_output=True, text=True
        )
        answer = json.loads(done.stdout)
        if answer["keys"] != self._keys:
            raise RuntimeError(f"expected {self._keys} keys drained, came {answer['keys']}")
        return float(answer["peak_kb"]) / 1024

    def settle(self) -> None:
        """Between two measurements: nothing of the last one is left to be cleaned up during the next."""
        self._postgres.execute("truncate raw.api_key_deltas, ops.sync_batches")
        self._postgres.execute("vacuum analyze usage.api_keys")
        self._postgres.execute("checkpoint")
        gc.collect()

    def check(self) -> None:
        """Everything that was written is stored, once. Raises RuntimeError."""
        [stored] = self._postgres.execute("select sum(total_requests)::bigint from usage.api_keys").fetchone() or (0,)
        if stored != self._written:
            raise RuntimeError(f"expected {self._written} requests stored, came {stored}")

    def close(self) -> None:
        self._postgres.close()
        self._redis.close()

    def _write_keys(self, keys: int) -> None:
        pack = hiredis.pack_command
        counts = ("total_requests", 1, "successful_requests", 1, "failed_requests", 0, "total_file_size", 1024)
        fields = (*counts, "total_files_uploaded", 1, "last_used_at", self._now_ms)
        with PinnedConnection(self._redis) as connection:
            for first in range(0, keys, 1_000):
                packed = [
                    pack(("HSET", key, *fields)) + pack(("EXPIRE", key, 604_800))
                    for key in self._key_names(first, min(first + 1_000, keys))
                ]
                connection.replies(b"".join(packed), 2 * len(packed))
        self._written += keys

    def _announce(self) -> None:
        for first in range(0, self._keys, 1_000):
            self._redis.sadd(names.touched("api_key"), *self._key_names(first, min(first + 1_000, self._keys)))

    def _key_names(self, first: int, end: int) -> list[str]:
        # Spread like ids are, not in the order of the index.
        return [names.api_key_metrics(f"{number * 2654435761 % 2**32:08x}-{number}") for number in range(first, end)]

    def _copy_buffers(self) -> Iterator[bytes]:
        used_us = self._now_ms * 1000
        chunk = self._settings.drain_chunk_keys
        for first in range(0, self._keys, chunk):
            ids = (name.split(":")[1] for name in self._key_names(first, min(first + chunk, self._keys)))
            yield "".join(f"{api_key_id}\t1\t1\t0\t1024\t1\t{used_us}\t\\N\n" for api_key_id in ids).encode()


class _timed:  # noqa: N801  # a context manager that reads as a word
    """Keys a second of its block."""

    def __init__(self, keys: int) -> None:
        self._keys = keys

    def __enter__(self) -> "_timed":
        self._started = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.per_second = self._keys / (time.perf_counter() - self._started)


def measure(settings: Settings, *, keys: int, repeats: int, say: Callable[[str], None]) -> Result:
    """All measurements in turns, `repeats` times after a warm-up that fills the tables and is not counted."""
    bench = Bench(settings, keys)
    subjects: dict[str, Callable[[], float]] = {
        "loop": bench.loop,
        "floor": bench.write_floor,
        "announced": lambda: bench.drain(announced=True),
        "scanned": lambda: bench.drain(announced=False),
    }
    rates: dict[str, list[float]] = {name: [] for name in subjects}
    try:
        for repeat in range(repeats + 1):
            order = list(subjects)[repeat % len(subjects) :] + list(subjects)[: repeat % len(subjects)]
            for name in order:
                bench.settle()
                rate = subjects[name]()
                if repeat:
                    rates[name].append(rate)
                say(f"{'warm-up' if not repeat else f'repeat {repeat}'}: {name} {rate:,.0f} keys/s")
        bench.settle()
        peak_mb = bench.peak_mb()
        bench.check()
    finally:
        bench.close()

    def ratio(one: str, other: str) -> float:
        return median(a / b for a, b in zip(rates[one], rates[other], strict=True))

    return Result(
        keys=keys,
        repeats=repeats,
        loop_per_second=median(rates["loop"]),
        drain_announced_per_second=median(rates["announced"]),
        drain_scanned_per_second=median(rates["scanned"]),
        write_floor_per_second=median(rates["floor"]),
        announced_to_loop=ratio("announced", "loop"),
        scanned_to_loop=ratio("scanned", "loop"),
        announced_to_floor=ratio("announced", "floor"),
        scanned_to_floor=ratio("scanned", "floor"),
        drain_peak_mb=peak_mb,
    )


def table(result: Result) -> Table:
    shown = Table(title=f"{result.keys:,} API key hashes, medians of {result.repeats}")
    for column in ("", "keys/s", "to the loop", "to the write floor"):
        shown.add_column(column, justify="left" if not column else "right")
    loop, floor = result.loop_per_second, result.write_floor_per_second
    shown.add_row("loop: HGETALL, upsert, DEL", f"{loop:,.0f}", "1.0", f"{loop / floor:.3f}")
    for name, rate, to_loop, to_floor in (
        (
            "drain, keys announced",
            result.drain_announced_per_second,
            result.announced_to_loop,
            result.announced_to_floor,
        ),
        ("drain, keys scanned for", result.drain_scanned_per_second, result.scanned_to_loop, result.scanned_to_floor),
    ):
        shown.add_row(name, f"{rate:,.0f}", f"{to_loop:.1f}", f"{to_floor:.2f}")
    shown.add_row("write floor: COPY, upsert", f"{floor:,.0f}", f"{floor / loop:.1f}", "1.00")
    if result.drain_peak_mb is not None:
        shown.caption = f"peak memory of a drain: {result.drain_peak_mb:.0f} MB (limit {LARGEST_MEMORY_MB})"
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=int, default=100_000, help="API key hashes in one drain")
    parser.add_argument("--repeats", type=int, default=5, help="measurements of each kind; medians are shown")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    chosen = parser.parse_args()
    if chosen.keys < 1 or chosen.repeats < 1:
        parser.error("--keys and --repeats must be at least 1")
    progress = Console(stderr=True)
    folder = Path(tempfile.mkdtemp(prefix="usage-pipeline-bench-"))
    try:
        with LocalServers(folder) as servers:
            migrate(servers.database_url)
            settings = load_settings(database_url=servers.database_url, redis_url=servers.redis_url)
            result = measure(
                settings, keys=chosen.keys, repeats=chosen.repeats, say=lambda line: progress.print(line, style="dim")
            )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if chosen.json:
        print(json.dumps(asdict(result)))
    else:
        Console().print(table(result))


if __name__ == "__main__":
    main()
