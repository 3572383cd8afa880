"""How fast API key hashes get from Redis into PostgreSQL, against the one-key loop and against each server's own floor.

Everything is measured in turns within one run, on embedded servers in a temporary folder, so that the ratios hold
although the machine's own speed comes and goes. Run: python -m benchmarks.drain [--keys N ...] [--repeats N] [--json]
"""

import argparse
import gc
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass

import hiredis
from rich.table import Table
from usage_recorder import keys as recorder_keys

from benchmarks.harness import (
    Timed,
    add_repeats,
    answer_and_peak_mb,
    measure_in_turns,
    medians,
    own_servers,
    paired_ratio,
    parsed,
    say,
    show,
)
from usage_pipeline import redis_keys as names
from usage_pipeline.drain.rounds import drain_once
from usage_pipeline.process import process_name
from usage_pipeline.settings import Settings
from usage_pipeline.storage.postgres import connect
from usage_pipeline.storage.redis import PinnedConnection, bulk_strings, client, one_by_one
from usage_pipeline.storage.sql import load

SIZES = (10_000, 100_000, 1_000_000)
LOOP_SAMPLE_KEYS = 2_000
LARGEST_MEMORY_MB = 120
_KEYS_PER_SEND = 500
_LATENCY_KEYS = 100_000
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
import sys
from usage_pipeline.drain.rounds import drain_once
from usage_pipeline.settings import load_settings

answer = drain_once(load_settings(database_url=sys.argv[1], redis_url=sys.argv[2]), ["api_key"]).keys
"""
# An API server's side: one request after the other, 500 a second at most, until its standard input is closed.
_WRITER = """
import json, sys, threading, time
import redis

client = redis.Redis.from_url(sys.argv[1])
is_over = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), is_over.set()), daemon=True).start()
print("ready", flush=True)
milliseconds = []
while not is_over.wait(0.002):
    started = time.perf_counter()
    with client.pipeline(transaction=True) as pipe:
        pipe.hincrby("writer:metrics", "total_requests", 1).expire("writer:metrics", 604_800).execute()
    milliseconds.append((time.perf_counter() - started) * 1000)
print(json.dumps(milliseconds))
"""


@dataclass(frozen=True, slots=True)
class Result:
    """Medians over the repeats: rates in keys a second, ratios paired within a repeat."""

    keys: int
    rows: str
    repeats: int
    loop_per_second: float
    drain_per_second: float
    write_floor_per_second: float
    read_floor_per_second: float
    drain_to_loop: float
    drain_to_write_floor: float
    drain_to_read_floor: float


@dataclass(frozen=True, slots=True)
class Latency:
    """What a writer waits for one record, in milliseconds, with nothing else going on and while a drain runs."""

    idle_p50: float
    idle_p99: float
    draining_p50: float
    draining_p99: float


class Bench:
    """Servers, connections, and the things to measure; each measures only itself and leaves Redis without live keys."""

    def __init__(self, settings: Settings, keys: int) -> None:
        self._settings = settings
        self._keys = keys
        self._postgres = connect(settings)
        self._redis = client(settings)
        self._now_ms = int(time.time() * 1000)

    def loop(self) -> float:
        """Keys a second of HGETALL, upsert and commit, DEL, one key at a time."""
        sample = min(LOOP_SAMPLE_KEYS, self._keys)
        self.write_keys(sample)
        live = list(self._redis.scan_iter("apikey:*:metrics", count=10_000))
        with self._all_stored(sample), Timed(sample) as rate:
            for key in live:
                fields = self._redis.hgetall(key)
                api_key_id = key.decode().split(":", 1)[1].removesuffix(":metrics")
                counts = [int(fields[name.encode()]) for name in _FIELDS]
                self._postgres.execute(_UPSERT, (api_key_id, *counts, int(fields[b"last_used_at"])))
                self._redis.delete(key)
        return rate.per_second

    def read_floor(self) -> float:
        """Keys a second of HGETALL alone: packed, the next send under way while one is read; nothing is changed."""
        self.write_keys()
        live = [name.encode() for name in self._key_names(0, self._keys)]
        with PinnedConnection(self._redis) as connection, Timed(self._keys) as rate:
            sent = 0
            for first in range(0, len(live), _KEYS_PER_SEND):
                some = live[first : first + _KEYS_PER_SEND]
                connection.send(one_by_one([b"HGETALL"], bulk_strings(some)))
                if sent:
                    connection.receive(sent)
                sent = len(some)
            connection.receive(sent)
        self._redis.flushall()
        return rate.per_second

    def drain(self, *, announced: bool = True) -> float:
        """Keys a second of `drain_once`, connections included, over keys that were announced or must be scanned for."""
        self.write_keys()
        pauses = names.scan_pause("api_key"), names.scan_pause("claim:api_key")
        if announced:
            self._announce()
            for pause in pauses:
                self._redis.set(pause, process_name(), px=300_000)
        else:
            self._redis.delete(*pauses)
        with self._all_stored(self._keys), Timed(self._keys) as rate:
            drain_once(self._settings, ["api_key"])
        return rate.per_second

    def write_floor(self) -> float:
        """Keys a second of COPY out of ready buffers and the upsert of the totals: same chunks, no raw, no ledger."""
        buffers = list(self._copy_buffers())
        postgres = self._postgres
        stage, upsert = load("drain/stage_api_key"), load("drain/upsert_totals_api_key")
        with self._all_stored(self._keys), Timed(self._keys) as rate:
            for buffer in buffers:
                with postgres.transaction():
                    postgres.execute(stage)
                    with postgres.cursor() as cursor, cursor.copy("copy staged_api_key from stdin") as copy:
                        copy.write(buffer)
                    postgres.execute(upsert)
        return rate.per_second

    def peak_mb(self) -> float | None:
        """Peak memory of a process that drains all keys and imports nothing but the counters; None off Linux."""
        self.write_keys()
        with self._all_stored(self._keys):
            _, peak_mb = answer_and_peak_mb(_DRAIN_ALONE, self._settings)
        return peak_mb

    def latencies(self, *, draining: bool) -> list[float]:
        """What a writer waits for each of its records, in milliseconds, during a drain or the time of one."""
        self.write_keys()
        writer = subprocess.Popen(
            [sys.executable, "-c", _WRITER, self._settings.redis_dsn.get_secret_value()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        with writer:
            assert writer.stdin is not None
            assert writer.stdout is not None
            writer.stdout.readline()
            if draining:
                drain_once(self._settings, ["api_key"])
            else:
                time.sleep(2)
            writer.stdin.close()
            measured: list[float] = json.loads(writer.stdout.read())
        self._redis.flushall()
        return measured

    def forget_rows(self) -> None:
        """Makes every row new to the next subject."""
        self._postgres.execute("truncate usage.api_keys")

    def settle(self) -> None:
        """Between two measurements: nothing of the last one is left to be cleaned up during the next."""
        self._postgres.execute("truncate raw.api_key_deltas, ops.sync_batches")
        self._postgres.execute("vacuum analyze usage.api_keys")
        self._postgres.execute("checkpoint")
        gc.collect()

    def close(self) -> None:
        self._postgres.close()
        self._redis.close()

    def write_keys(self, keys: int | None = None) -> None:
        """Puts that many hashes (by default all) into Redis, as writers do."""
        pack, wanted = hiredis.pack_command, self._keys if keys is None else keys
        counts = ("total_requests", 1, "successful_requests", 1, "failed_requests", 0, "total_file_size", 1024)
        fields = (*counts, "total_files_uploaded", 1, "last_used_at", self._now_ms)
        with PinnedConnection(self._redis) as connection:
            for first in range(0, wanted, 1_000):
                packed = [
                    pack(("HSET", key, *fields)) + pack(("EXPIRE", key, 604_800))
                    for key in self._key_names(first, min(first + 1_000, wanted))
                ]
                connection.replies(b"".join(packed), 2 * len(packed))

    @contextmanager
    def _all_stored(self, keys: int) -> Iterator[None]:
        """Everything that was written is stored, once. Raises RuntimeError."""
        query = "select coalesce(sum(total_requests), 0)::bigint from usage.api_keys"
        [[before]] = self._postgres.execute(query).fetchall()
        yield
        [[after]] = self._postgres.execute(query).fetchall()
        if after - before != keys:
            raise RuntimeError(f"expected {keys} requests stored, came {after - before}")

    def _announce(self) -> None:
        for first in range(0, self._keys, 1_000):
            self._redis.sadd(recorder_keys.touched("api_key"), *self._key_names(first, min(first + 1_000, self._keys)))

    def _key_names(self, first: int, end: int) -> list[str]:
        # Spread like ids are, not in the order of the index.
        return [
            recorder_keys.api_key_metrics(f"{number * 2654435761 % 2**32:08x}-{number}") for number in range(first, end)
        ]

    def _copy_buffers(self) -> Iterator[bytes]:
        used_us = self._now_ms * 1000
        chunk = self._settings.drain_chunk_keys
        for first in range(0, self._keys, chunk):
            ids = (name.split(":")[1] for name in self._key_names(first, min(first + chunk, self._keys)))
            yield "".join(f"{api_key_id}\t1\t1\t0\t1024\t1\t{used_us}\t\\N\n" for api_key_id in ids).encode()


def measure(bench: Bench, *, keys: int, rows: str, repeats: int) -> Result:
    """All measurements in turns, `repeats` times after a warm-up that is not counted. `rows` is new or existing."""
    subjects: dict[str, Callable[[], float]] = {
        "loop": bench.loop,
        "write floor": bench.write_floor,
        "drain": bench.drain,
        "read floor": bench.read_floor,
    }

    def settle() -> None:
        if rows == "new":
            bench.forget_rows()
        bench.settle()

    rates = measure_in_turns(
        subjects, repeats=repeats, settle=settle, say=lambda line: say(f"{keys:,} {rows} rows, {line}")
    )
    per_second = medians(rates)
    return Result(
        keys=keys,
        rows=rows,
        repeats=repeats,
        loop_per_second=per_second["loop"],
        drain_per_second=per_second["drain"],
        write_floor_per_second=per_second["write floor"],
        read_floor_per_second=per_second["read floor"],
        drain_to_loop=paired_ratio(rates, "drain", "loop"),
        drain_to_write_floor=paired_ratio(rates, "drain", "write floor"),
        drain_to_read_floor=paired_ratio(rates, "drain", "read floor"),
    )


def measure_latency(bench: Bench, *, repeats: int) -> Latency:
    """Of all records of all repeats, with and without a drain in turns."""
    waits: dict[bool, list[float]] = {False: [], True: []}
    for repeat in range(1, repeats + 1):
        for draining in waits:
            bench.settle()
            waits[draining] += bench.latencies(draining=draining)
        say(f"writers, repeat {repeat}: {len(waits[False]):,} records idle, {len(waits[True]):,} during a drain")

    def share(draining: bool, fraction: float) -> float:
        return sorted(waits[draining])[int(fraction * (len(waits[draining]) - 1))]

    return Latency(share(False, 0.5), share(False, 0.99), share(True, 0.5), share(True, 0.99))


def table(results: list[Result], latency: Latency, peaks_mb: dict[int, float | None]) -> Table:
    """What was measured, as a person reads it."""
    shown = Table(title=f"API key hashes: thousands a second, and the drain's ratios; medians of {results[0].repeats}")
    shown.add_column("keys", justify="right")
    shown.add_column("rows")
    for column in ("loop", "drain", "write floor", "read floor", "to loop", "to write", "to read", "peak MB"):
        shown.add_column(column, justify="right")
    for result in results:
        peak = peaks_mb[result.keys]
        shown.add_row(
            f"{result.keys:,}",
            result.rows,
            f"{result.loop_per_second / 1000:,.1f}",
            f"{result.drain_per_second / 1000:,.1f}",
            f"{result.write_floor_per_second / 1000:,.1f}",
            f"{result.read_floor_per_second / 1000:,.1f}",
            f"{result.drain_to_loop:.1f}",
            f"{result.drain_to_write_floor:.2f}",
            f"{result.drain_to_read_floor:.2f}",
            "" if peak is None else f"{peak:.0f}",
        )
    shown.caption = (
        f"peak: memory of a process that drains alone (limit {LARGEST_MEMORY_MB} MB). A writer waits for a record "
        f"{latency.idle_p50:.2f} ms (p99 {latency.idle_p99:.2f}), during a drain of {_LATENCY_KEYS:,} keys "
        f"{latency.draining_p50:.2f} ms (p99 {latency.draining_p99:.2f})"
    )
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=int, nargs="+", default=list(SIZES), help="API key hashes in one drain")
    add_repeats(parser)
    chosen = parsed(parser)
    if min(chosen.keys) < 1 or chosen.repeats < 1:
        parser.error("--keys and --repeats must be at least 1")
    results: list[Result] = []
    peaks_mb: dict[int, float | None] = {}
    with own_servers() as settings:
        for keys in chosen.keys:
            with closing(Bench(settings, keys)) as bench:
                results += [
                    measure(bench, keys=keys, rows=rows, repeats=chosen.repeats) for rows in ("new", "existing")
                ]
                bench.settle()
                peaks_mb[keys] = bench.peak_mb()
        with closing(Bench(settings, _LATENCY_KEYS)) as bench:
            latency = measure_latency(bench, repeats=chosen.repeats)
    document = {"results": [asdict(result) for result in results], "latency": asdict(latency), "peaks_mb": peaks_mb}
    show(document, [table(results, latency, peaks_mb)], as_json=chosen.json)


if __name__ == "__main__":
    main()
