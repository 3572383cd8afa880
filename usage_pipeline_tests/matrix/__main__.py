"""Runs tests on other versions of the servers: python -m usage_pipeline_tests.matrix [--small] [SERVER ...].

Each row is one PostgreSQL with one Redis, so that every version has its turn. It ends with a line for each row, and says what
could not be had.
"""

import argparse
import os
import subprocess
import sys
import time

from usage_pipeline_tests.matrix.programs import POSTGRES, REDIS, NotToBeHad, Postgres, Redis
from usage_pipeline_tests.rigs.places import PROJECT

ROWS = tuple(zip(POSTGRES, REDIS, strict=True))
# What asks a server for something: migrations and lifecycle, the drain and its recovery, ingest, roll-ups, reporting.
TESTS = (
    "matrix",
    "storage",
    "drain/test_protocol.py",
    "drain/test_recovery.py",
    "drain/test_failover.py",
    "drain/test_event_queue.py",
    "drain/test_rounds.py",
    "drain/state_machine",
    "drain/sources",
    "drain/odd_servers",
    "recording/test_exactly_once.py",
    "recording/test_recorder.py",
    "merchants",
    "events/ingest",
    "rollups",
    "reporting",
)
# The same in about a minute, for each change.
SMALL_TESTS = (
    "matrix",
    "storage/test_migrations.py",
    "storage/test_postgres.py",
    "storage/test_redis.py",
    "storage/lifecycle/test_native.py",
    "drain/test_recovery.py",
    "drain/sources/test_barrier.py",
    "events/ingest/test_batches.py",
    "rollups/test_daily.py",
    "rollups/test_windows.py",
    "reporting/test_views.py",
)


def main() -> int:
    arguments = _arguments()
    tests = SMALL_TESTS if arguments.small else TESTS
    if arguments.servers:
        rows = tuple(row for row in ROWS if {server.name for server in row} & {*arguments.servers})
    else:
        rows = ROWS[:: len(ROWS) - 1] if arguments.small else ROWS
    lines = []
    has_failed = False
    for postgres, redis in rows:
        name = f"{postgres.name} with {redis.name}"
        try:
            versions = f"{postgres.said_version()}, {redis.said_version()}"
        except (NotToBeHad, subprocess.TimeoutExpired) as reason:
            lines.append(f"{name}: NOT RUN: {reason}")
            continue
        print(f"\n=== {name}: {versions}", flush=True)
        started = time.monotonic()
        status = _run(postgres, redis, tests, arguments.processes)
        has_failed = has_failed or status != 0
        said = "passed" if status == 0 else f"FAILED (pytest ended with {status})"
        lines.append(f"{name}: {said} in {time.monotonic() - started:.0f} s ({versions})")
    print("\n" + "\n".join(lines))
    ran_one = any("NOT RUN" not in line for line in lines)
    return 1 if has_failed or not ran_one else 0


def _run(postgres: Postgres, redis: Redis, tests: tuple[str, ...], processes: int) -> int:
    command = [sys.executable, "-m", "pytest", "-q", "--dist", "loadfile", "--numprocesses", str(processes)]
    files = [str(PROJECT / "usage_pipeline_tests" / test) for test in tests]
    programs = {"TEST_POSTGRES_BIN": str(postgres.program()), "TEST_REDIS_SERVER": str(redis.program())}
    return subprocess.run([*command, *files], cwd=PROJECT, env={**os.environ, **programs}).returncode


def _arguments() -> argparse.Namespace:
    names = [server.name for row in ROWS for server in row]
    parser = argparse.ArgumentParser(prog="python -m usage_pipeline_tests.matrix", description=__doc__)
    parser.add_argument("servers", nargs="*", metavar="SERVER", help=f"only rows with one of: {', '.join(names)}")
    parser.add_argument("--small", action="store_true", help="a few files (on the oldest and newest, if none is named)")
    parser.add_argument("--processes", type=int, default=3, help="how many tests at once (default: %(default)s)")
    arguments = parser.parse_args()
    if unknown := sorted({*arguments.servers} - {*names}):
        parser.error(f"expected some of {', '.join(names)}, came {', '.join(unknown)}")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
