"""The recorder under load: what a record call takes while drains run, and whether everything recorded ends in PostgreSQL.

Processes like API servers record requests at a paced rate, half of them from threads and half with asyncio, while
`usage-pipeline drain --watch` and an aggregation run; then what was recorded is compared with what is stored, per key and
field. Run: python -m benchmarks.recorder [--requests-per-minute N] [--seconds N] [--json]
"""

import argparse
import asyncio
import multiprocessing
import os
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, wait
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import psycopg
from rich.table import Table
from usage_recorder.async_recorder import AsyncRecorder
from usage_recorder.calls import Build, Recording
from usage_recorder.commands import Family
from usage_recorder.recorder import Recorder

from benchmarks.harness import own_servers, parsed, running_module, say, show, table_of
from usage_pipeline.drain.rounds import drain_once
from usage_pipeline.merchants.aggregation import aggregate
from usage_pipeline.redis_keys import CLAIMS, scan_pause
from usage_pipeline.settings import Settings
from usage_pipeline.storage.redis import client
from usage_pipeline.storage.sql import load

WORKERS = 4
# Requests that one worker process has under way at once.
CONCURRENT_REQUESTS = 16
RECORDS_PER_REQUEST = 5
# Drains come more often than by default, so that a short run has many.
_SYNC_INTERVAL_MS = 1_000
_AGGREGATION_SECONDS = 5.0
_API_KEYS, _TOKENS, _MERCHANTS = 2_000, 500, 100

# Set in each worker process: a multiprocessing barrier, whose type has no public name.
_all_are_ready: Any = None

# (family, key, field), as in sql/local/select_stored_counts.sql
Counts = Counter[tuple[str, str, str]]


@dataclass(frozen=True, slots=True)
class Share:
    """What one worker process does: `requests`, evenly over `seconds`, from when all workers are ready."""

    seed: int
    redis_url: str
    is_async: bool
    requests: int
    seconds: float


@dataclass(slots=True)
class Recorded:
    """What a worker recorded: counts that the recorder took, seconds of each call, drops by reason."""

    counts: Counts = field(default_factory=Counter)
    call_seconds: list[float] = field(default_factory=list)
    requests: int = 0
    seconds: float = 0.0
    dropped: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Result:
    """Rates in requests a minute (each of RECORDS_PER_REQUEST calls); times of a call in milliseconds."""

    workers: int
    requests: int
    wanted_per_minute: int
    achieved_per_minute: float
    calls: int
    call_p50_ms: float
    call_p95_ms: float
    call_p99_ms: float
    call_max_ms: float
    drained_batches: int
    drained_batches_while_recording: int
    aggregations: int
    dropped: dict[str, int]
    recorded_counts: int
    lost: int
    surplus: int


class _TimedRecorder(Recorder):
    """Notes what each record takes its caller."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.call_seconds: list[float] = []

    def _record(self, family: Family, at_ms: int | None, build: Build) -> bool:
        started = time.perf_counter()
        try:
            return super()._record(family, at_ms, build)
        finally:
            self.call_seconds.append(time.perf_counter() - started)


class _TimedAsyncRecorder(AsyncRecorder):
    """The same for asyncio: a task also waits while the event loop is busy with others."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.call_seconds: list[float] = []

    async def _record(self, family: Family, at_ms: int | None, build: Build) -> bool:
        started = time.perf_counter()
        try:
            return await super()._record(family, at_ms, build)
        finally:
            self.call_seconds.append(time.perf_counter() - started)


def records(recorder: Recording[Any, Any], chance: Random) -> Iterator[tuple[Any, dict[tuple[str, str, str], int]]]:
    """One request: the outcome of each of its record calls (or an awaitable of it), and what it counts if it is recorded."""
    number = int(chance.paretovariate(0.5)) % _API_KEYS
    key, provider, token = f"key-{number:04d}", chance.choice(("s3", "gcs")), f"token-{number % _TOKENS:03d}"
    size, is_success = chance.randrange(1_000, 5_000_000), chance.random() < 0.96
    merchant = f"merchant-{number % _MERCHANTS:02d}"
    at_ms = round(time.time() * 1000)
    day = datetime.fromtimestamp(at_ms / 1000, UTC).date().isoformat()
    yield (
        recorder.record_api_key(key, success=is_success, file_size=size, files_uploaded=1, at_ms=at_ms),
        {
            ("api_key", key, "total_requests"): 1,
            ("api_key", key, "successful_requests" if is_success else "failed_requests"): 1,
            ("api_key", key, "total_file_size"): size,
            ("api_key", key, "total_files_uploaded"): 1,
        },
    )
    yield (
        recorder.record_provider(key, provider, user_id=f"user-{number}", file_size=size, at_ms=at_ms),
        {
            ("provider", f"{key}:{provider}", "upload_count"): 1,
            ("provider", f"{key}:{provider}", "total_file_size"): size,
        },
    )
    yield (
        recorder.record_token(token, f"api-{os.getpid()}:8080", at_ms=at_ms),
        {("token", token, "usage_count"): 1},
    )
    yield (
        recorder.record_merchant(merchant, "requests", at_ms=at_ms),
        {("merchant", f"{merchant}:{day}:requests", "metric_value"): 1},
    )
    yield (
        recorder.record_event(
            key,
            user_id=f"user-{number}",
            provider=provider,
            event_type="upload",
            file_size=size,
            success=is_success,
            at_ms=at_ms,
        ),
        {("event", key, "events"): 1},
    )


def _prepare(all_are_ready: Any) -> None:
    """In a worker process, before its work."""
    global _all_are_ready
    _all_are_ready = all_are_ready


def work(share: Share) -> Recorded:
    """One API server's process. Requests that cannot begin in time begin late: none is left out."""
    recorded = Recorded()
    _all_are_ready.wait(60)
    started = time.time()
    due = iter(started + number * share.seconds / share.requests for number in range(share.requests))
    recorder = (
        asyncio.run(_work_async(share, due, recorded)) if share.is_async else _work_in_threads(share, due, recorded)
    )
    recorded.call_seconds = recorder.call_seconds
    recorded.seconds = time.time() - started
    recorded.dropped.update(
        {f"{what}: {reason}": number for (what, reason), number in recorder.failures.items() if reason != "bookkeeping"}
    )
    return recorded


def _work_in_threads(share: Share, due: Iterator[float], recorded: Recorded) -> _TimedRecorder:
    recorder = _TimedRecorder.connect(share.redis_url)
    lock = threading.Lock()

    def serve(seed: int) -> None:
        chance, counts, requests = Random(seed), Counts(), 0
        while True:
            with lock:
                at = next(due, None)
            if at is None:
                break
            time.sleep(max(0.0, at - time.time()))
            for outcome, amounts in records(recorder, chance):
                if outcome:
                    counts.update(amounts)
            requests += 1
        with lock:
            recorded.counts.update(counts)
            recorded.requests += requests

    threads = [
        threading.Thread(target=serve, args=(share.seed * 1_000 + number,)) for number in range(CONCURRENT_REQUESTS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    recorder.close(timeout_seconds=60)
    return recorder


async def _work_async(share: Share, due: Iterator[float], recorded: Recorded) -> _TimedAsyncRecorder:
    recorder = _TimedAsyncRecorder.connect(share.redis_url)

    async def serve(seed: int) -> None:
        chance = Random(seed)
        for at in due:
            await asyncio.sleep(max(0.0, at - time.time()))
            outcome: Awaitable[Any]
            for outcome, amounts in records(recorder, chance):
                if await outcome:
                    recorded.counts.update(amounts)
            recorded.requests += 1

    await asyncio.gather(*(serve(share.seed * 1_000 + number) for number in range(CONCURRENT_REQUESTS)))
    await recorder.close(timeout_seconds=60)
    return recorder


def measure(
    settings: Settings,
    *,
    requests_per_minute: int,
    seconds: float,
    say: Callable[[str], None],
    workers: int = WORKERS,
) -> Result:
    """Records at the rate while drains and aggregations run, drains what is left, and compares both sides."""
    redis_url = settings.redis_dsn.get_secret_value()
    requests = round(requests_per_minute * seconds / 60)
    shares = [
        Share(
            seed,
            redis_url,
            is_async=seed % 2 == 1,
            requests=requests // workers + (seed < requests % workers),
            seconds=seconds,
        )
        for seed in range(workers)
    ]
    spawning = multiprocessing.get_context("spawn")
    first_day = datetime.now(UTC).date()
    aggregations = 0
    with (
        closing(psycopg.connect(settings.database_url.get_secret_value(), autocommit=True)) as postgres,
        _watching(settings),
        ProcessPoolExecutor(workers, spawning, _prepare, (spawning.Barrier(workers),)) as processes,
    ):
        pending = [processes.submit(work, share) for share in shares]
        while not all(one.done() for one in pending):
            aggregate(settings, [first_day, first_day + timedelta(days=1)])
            aggregations += 1
            wait(pending, _AGGREGATION_SECONDS)
        recorded = [one.result() for one in pending]
        while_recording = _batches(postgres)
        say(f"recorded {sum(one.requests for one in recorded):,} requests, {while_recording:,} batches drained by then")
    with closing(psycopg.connect(settings.database_url.get_secret_value(), autocommit=True)) as postgres:
        while drain_once(settings, wait_for_lock_seconds=30).keys:
            pass
        aggregate(settings, [first_day, first_day + timedelta(days=1)])
        batches = _batches(postgres)
        lost, surplus = _differences(postgres, recorded)
    _expect_no_claims(settings)
    calls = sorted(call for one in recorded for call in one.call_seconds)
    dropped = Counter[str]()
    for one in recorded:
        dropped.update(one.dropped)
    longest = max(one.seconds for one in recorded)
    return Result(
        workers=workers,
        requests=sum(one.requests for one in recorded),
        wanted_per_minute=requests_per_minute,
        achieved_per_minute=sum(one.requests for one in recorded) / longest * 60,
        calls=len(calls),
        call_p50_ms=_percentile_ms(calls, 0.50),
        call_p95_ms=_percentile_ms(calls, 0.95),
        call_p99_ms=_percentile_ms(calls, 0.99),
        call_max_ms=_percentile_ms(calls, 1.0),
        drained_batches=batches,
        drained_batches_while_recording=while_recording,
        aggregations=aggregations,
        dropped=dict(dropped),
        recorded_counts=len({key for one in recorded for key in one.counts}),
        lost=lost,
        surplus=surplus,
    )


@contextmanager
def _watching(settings: Settings) -> Iterator[None]:
    """The worker that drains, as it is run in production, from its first round until the end of the block."""
    with (
        closing(client(settings)) as redis,
        running_module(
            settings,
            "usage_pipeline.cli",
            "drain",
            "--watch",
            # Written for a minute at the end of a round.
            is_up=lambda: bool(redis.exists(scan_pause("quotas"))),
            what="the first round of drains",
            METRICS_SYNC_INTERVAL_MS=str(_SYNC_INTERVAL_MS),
            API_TOKEN_SYNC_INTERVAL_MS=str(_SYNC_INTERVAL_MS),
        ) as process,
    ):
        yield
        if process.poll() is not None:
            raise RuntimeError(f"expected drains until the end, but they ended with status {process.returncode}")


def _batches(postgres: psycopg.Connection) -> int:
    [(batches,)] = postgres.execute("select count(*) from ops.sync_batches where family <> 'merchant'").fetchall()
    return int(batches)


def _differences(postgres: psycopg.Connection, recorded: list[Recorded]) -> tuple[int, int]:
    """Over all keys and fields, how far stored counts lie below and above the recorded ones.

    Both must be 0, also where Redis stood still and calls had no answer.
    """
    ours, theirs = Counts(), Counts()
    for one in recorded:
        ours.update(one.counts)
    for family, key, name, value in postgres.execute(load("local/select_stored_counts"), {"ids": "%", "token_ids": []}):
        theirs[family, key, name] = int(value)
    apart = [theirs[key] - ours[key] for key in ours.keys() | theirs.keys()]
    return -sum(one for one in apart if one < 0), sum(one for one in apart if one > 0)


def _expect_no_claims(settings: Settings) -> None:
    with closing(client(settings)) as redis:
        left = list(redis.scan_iter(CLAIMS + b"*", count=10_000))
    if left:
        raise RuntimeError(f"expected nothing claimed at the end, came {len(left)} keys")


def _percentile_ms(ascending: list[float], share: float) -> float:
    return ascending[min(int(len(ascending) * share), len(ascending) - 1)] * 1000 if ascending else 0.0


def table(result: Result) -> Table:
    title = f"{result.requests:,} requests, {result.calls:,} record calls in {result.workers} processes"
    shown = table_of(title, "", "measured")
    rows = [
        ("requests a minute", f"{result.achieved_per_minute:,.0f} of {result.wanted_per_minute:,}"),
        ("record call, p50", f"{result.call_p50_ms:.1f} ms"),
        ("record call, p95", f"{result.call_p95_ms:.1f} ms"),
        ("record call, p99", f"{result.call_p99_ms:.1f} ms"),
        ("record call, longest", f"{result.call_max_ms:.1f} ms"),
        ("batches drained while recording", f"{result.drained_batches_while_recording:,}"),
        ("batches drained", f"{result.drained_batches:,}"),
        ("aggregations while recording", f"{result.aggregations:,}"),
        ("records dropped", str(sum(result.dropped.values()))),
        (f"difference over {result.recorded_counts:,} counts", str(result.lost + result.surplus)),
    ]
    for row in rows:
        shown.add_row(*row)
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests-per-minute", type=int, default=50_000, help="each request is five record calls")
    parser.add_argument("--seconds", type=float, default=60, help="how long requests come")
    chosen = parsed(parser)
    if chosen.requests_per_minute * chosen.seconds < 60 * WORKERS:
        parser.error(f"expected at least {WORKERS} requests in the time")
    with own_servers() as settings:
        result = measure(
            settings,
            requests_per_minute=chosen.requests_per_minute,
            seconds=chosen.seconds,
            say=say,
        )
    show(asdict(result), [table(result)], as_json=chosen.json)
    if result.lost or result.surplus or result.dropped:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
