"""The demo: writers and drains overlap, and nothing is lost or doubled; on made-up traffic and on a real trace."""

import csv
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
import redis
from usage_recorder.recorder import Recorder

from usage_pipeline.alerting.record import HEARTBEAT
from usage_pipeline.events.ingest.batches import EVENTS, ingest
from usage_pipeline.local.processes.children import MARK
from usage_pipeline.local.servers.both import LocalServers
from usage_pipeline.local.servers.ports import free_port
from usage_pipeline.local.servers.redis import last_url
from usage_pipeline.local.traffic.issues import made_up_issues, store_issues
from usage_pipeline.settings import load_settings
from usage_pipeline_tests.rigs.events import as_items, event
from usage_pipeline_tests.rigs.places import REAL_TRACE
from usage_pipeline_tests.rigs.waiting import wait_until

REQUESTS = 1_500


def run_demo(folder: Path, *arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-c", "from usage_pipeline.cli import main; main()", "demo", "--json"]
    done = subprocess.run(
        [*command, "--folder", str(folder), *arguments],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "may count twice" not in done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def check(document: dict[str, Any]) -> None:
    assert document["success"]
    assert document["difference"] == 0
    assert document["dropped"] == 0
    assert Decimal(document["cost_difference"]) == 0
    assert document["uncompared_costs"] == 0
    costs = {cost["measure"]: Decimal(cost["stored"]) for cost in document["costs"]}
    assert costs["cost_usd"] > 0
    assert costs["unpriced_requests"] > 0
    for cost in document["costs"]:
        assert abs(Decimal(cost["expected"]) - costs[cost["measure"]]) < Decimal("1e-6")
    assert document["are_days_materialized"]
    for family in document["families"]:
        assert family["written"] == family["stored"] + family["refused"]
        assert family["stored"] > 0
    assert {family["family"] for family in document["families"] if family["refused"] == 1} == {
        "api_key",
        "token",
        "event",
        "usage_event",
    }


def trace_rows(requests: int) -> list[list[str]]:
    """The head of the real trace, or as many made-up rows of its shape where it is not beside this checkout."""
    if not REAL_TRACE.exists():
        made_up = ([f"2023-11-16 18:{n // 60:02d}:{n % 60:02d}.0000000", str(n), "20"] for n in range(requests))
        return [["TIMESTAMP", "ContextTokens", "GeneratedTokens"], *made_up]
    with REAL_TRACE.open(newline="") as file:
        return list(itertools.islice(csv.reader(file), requests + 1))


def short_trace(folder: Path, requests: int) -> str:
    path = folder / "trace.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(trace_rows(requests))
    return str(path)


def test_writers_and_drains_overlap_with_no_difference_and_a_trace_is_replayed_on_top(
    folder: Path, tmp_path: Path
) -> None:
    first = run_demo(folder, "--seconds", "2", "--writers", "4")
    check(first)
    # Busy cores get through one in that time, and one is what it takes.
    assert first["drains_while_writing"] >= 1
    today = datetime.now(UTC).date()
    assert 29 <= len(first["days"]) <= 45
    assert first["days"][-1] == today.isoformat()
    assert len({day[:7] for day in first["days"]}) == 2
    kinds = ("Cost by model", "Without a price", "The cost rose", "A correction")
    assert [finding.partition(":")[0] for finding in first["findings"]] == list(kinds)

    again = run_demo(folder, "--trace", short_trace(tmp_path, REQUESTS))
    check(again)
    assert again["requests"] == REQUESTS
    assert set(again["days"]) <= {today.isoformat(), (today - timedelta(days=1)).isoformat()}
    assert own_prices_of(folder) == {("azure", "demo-support", 1), ("house", "demo-llama-70b", 1)}


def own_prices_of(folder: Path) -> set[tuple[str, str, int]]:
    """Every own price of every version."""
    with LocalServers(folder) as servers, psycopg.connect(servers.database_url) as connection:
        return set(connection.execute("select provider, model, own_version from analytics.own_prices").fetchall())


DEMO = """
from pathlib import Path
from usage_pipeline.local.demo.run import run_demo
run_demo(Path({folder!r}), trace=None, seconds=60, writers=2, say=lambda text: print(text, flush=True))
"""
DEV = """
import sys
from pathlib import Path
from usage_pipeline.local.dev import run_dev
sys.exit(run_dev(folder=Path({folder!r}), port={port}, api_port={api_port}))
"""


def write_like_the_demo(postgres_url: str, redis_url: str) -> None:
    """What anybody may write at any time, under the same names as the demo: all of it new, nothing of it rolled up."""
    settings = load_settings(database_url=postgres_url, redis_url=redis_url)
    now = datetime.now(UTC)
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        for at in (now, now - timedelta(days=3)):
            sent = event(event_time=at.isoformat(), user_id="user-01", input_tokens=900, output_tokens=120)
            assert ingest(connection, EVENTS, as_items(sent), source="test", settings=settings).inserted == 1
        seed = int(now.timestamp() * 1_000_000)
        store_issues(connection, made_up_issues(seed, 1, until=now - timedelta(days=2), days=1))
    with (
        closing(Recorder.connect(redis_url, timezone=settings.timezone, timeout_seconds=5)) as recorder,
        redis.Redis.from_url(redis_url) as client,
    ):
        recorder.record_api_key("key-01", success=True, file_size=10)
        recorder.record_merchant("merchant-3", "requests")
        client.hset("apikey:broken-writer:metrics", "total_requests", "none")


@contextmanager
def another_writer(folder: Path) -> Iterator[list[int]]:
    """Writes all the time while the servers of the folder run. Gives a list that grows with each time that all was written."""
    done, stop = list[int](), threading.Event()

    def write() -> None:
        socket_folder = folder / "postgres"
        while not stop.wait(0.1):
            # Before the start and after the end, nobody answers.
            with suppress(psycopg.Error, redis.RedisError, OSError, ValueError):
                url = f"postgresql://postgres:@/usage?host={socket_folder}"
                write_like_the_demo(url, last_url(folder / "redis"))
                done.append(1)

    thread = threading.Thread(target=write, name="another writer")
    thread.start()
    try:
        yield done
    finally:
        stop.set()
        thread.join()


def write_beside_the_demo(folder: Path) -> None:
    """Events that are not rolled up yet, and a scheduler that stopped long ago."""
    with LocalServers(folder) as servers:
        write_like_the_demo(servers.database_url, servers.redis_url)
        with psycopg.connect(servers.database_url, autocommit=True) as connection:
            connection.execute(
                "insert into ops.heartbeats (name, beaten_at, details) values (%s, now() - interval '1 hour', '{}') "
                "on conflict (name) do update set beaten_at = excluded.beaten_at",
                (HEARTBEAT,),
            )


def left_running(folder: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            works_here = Path(process.cwd()).is_relative_to(folder)
            is_of_it = works_here or process.environ().get(MARK) == str(folder)
            if is_of_it and process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def names_of(processes: list[psutil.Process]) -> set[str]:
    """Of those that have not ended meanwhile."""
    names = set()
    for process in processes:
        with suppress(psutil.Error):
            names.add(process.name())
    return names


def kill_all(processes: list[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=30)


def cut_the_end(folder: Path) -> None:
    """What a power cut leaves of the file that is written all the time."""
    # Redis 6.2 has one file, later versions a folder of files.
    files = [*folder.glob("redis/appendonly.aof"), *folder.glob("redis/appendonlydir/*.incr.aof")]
    newest = max(files, key=lambda path: path.stat().st_mtime)
    assert newest.stat().st_size > 0
    os.truncate(newest, newest.stat().st_size - 1)


def test_the_demo_compares_only_what_it_wrote_after_demos_and_a_dev_that_were_killed_and_beside_another_writer(
    folder: Path, launch: Callable[..., Any], tmp_path: Path
) -> None:
    """Each kill is another one: of the launcher alone, of it and its servers, and of `dev`."""
    trace = short_trace(tmp_path, 200)
    first = launch(DEMO.format(folder=str(folder)))
    first.wait_for("writing and draining: [1-9]", timeout_seconds=300)
    first.kill()
    assert names_of(left_running(folder)) & {"postgres", "redis-server"}
    check(run_demo(folder, "--trace", trace))
    assert left_running(folder) == []

    second = launch(DEMO.format(folder=str(folder)))
    second.wait_for("writing and draining: [1-9]", timeout_seconds=300)
    kill_all([psutil.Process(second.process.pid), *left_running(folder)])
    cut_the_end(folder)
    check(run_demo(folder, "--trace", trace))

    dev = launch(DEV.format(folder=str(folder), port=free_port(), api_port=free_port()))
    dev.wait_for("HTTP is at", timeout_seconds=300)
    dev.kill()
    write_beside_the_demo(folder)
    with another_writer(folder) as done:
        check(run_demo(folder, "--seconds", "4"))
    assert done
    assert left_running(folder) == []


@pytest.mark.parametrize(("number", "until"), [(signal.SIGINT, "redis/port"), (signal.SIGTERM, "dagster/dagster.yaml")])
def test_a_demo_that_is_stopped_says_so_and_leaves_nothing_running(
    tmp_path: Path, number: signal.Signals, until: str
) -> None:
    """Soon after its start, and while Dagster has the signals."""
    folder = tmp_path / "place"
    # Whoever runs the tests in the background of a shell hands on that Ctrl-C is ignored.
    heeded = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    program = f"{heeded}; from usage_pipeline.cli import main; main()"
    command = [sys.executable, "-c", program, "demo", "--folder", str(folder), "--seconds", "0.5"]
    demo = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        wait_until(lambda: (folder / until).exists() or demo.poll() is not None, f"{until} is there", 120)
        demo.send_signal(number)
        _, said = demo.communicate(timeout=120)
    finally:
        demo.kill()
        demo.wait()
    assert demo.returncode == 130, said
    assert "Stopped before its end, without a comparison." in said.splitlines()[-1]
    assert left_running(folder) == []
