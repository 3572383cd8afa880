"""`usage-pipeline dev` as a process of its own, for benchmarks: GraphQL of its UI, its servers, the processor time it takes."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import httpx
import psutil

from usage_pipeline.local.processes.children import MARK, stop_left_overs
from usage_pipeline.local.processes.dagster import location_problem
from usage_pipeline.local.servers.ports import LOOPBACK, free_port
from usage_pipeline.local.servers.redis import last_url
from usage_pipeline_tests.rigs.waiting import wait_until

TIMEOUT_SECONDS = 600.0
_RUN_DEV = """
import sys
from pathlib import Path
from usage_pipeline.local.dev import run_dev
sys.exit(run_dev(folder=Path({folder!r}), port={port}, api_port={api_port}, module={module!r}))
"""
_LAUNCH = """mutation ($parameters: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $parameters) {
    __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }"""
_RE_RUN = """mutation ($parameters: ReexecutionParams!) { reexecutePartitionBackfill(reexecutionParams: $parameters) {
    __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }"""
_BACKFILL = """query ($id: String!) { partitionBackfillOrError(backfillId: $id) { ... on PartitionBackfill {
    status runs { startTime endTime } assetBackfillData { assetBackfillStatuses { ... on AssetPartitionsStatusCounts {
        numPartitionsMaterialized numPartitionsFailed } } } } } }"""


@dataclass(frozen=True, slots=True)
class Backfill:
    """A finished backfill: seconds from the click to its end, and from the first run's start to the last run's end."""

    partitions: int
    seconds: float
    run_seconds: float
    runs: int
    materialized: int
    failed: int


class DevSystem:
    """A running `dev` in a folder, and how long it took until the UI answered."""

    def __init__(self, folder: Path, port: int, ui_seconds: float) -> None:
        self.folder = folder
        self.ui_seconds = ui_seconds
        self.database_url = f"postgresql://postgres:@/usage?host={folder / 'postgres'}"
        self.redis_url = last_url(folder / "redis")
        self._client = httpx.Client(base_url=f"http://{LOOPBACK}:{port}", timeout=60, trust_env=False)

    def backfill(self, asset: Sequence[str], days: Sequence[date]) -> tuple[str, Backfill]:
        """Launches it as the UI does and follows it to its end; its id, for a re-run."""
        parameters = {"assetSelection": [{"path": list(asset)}], "partitionNames": [str(day) for day in days]}
        return self._follow(_LAUNCH, "launchPartitionBackfill", parameters)

    def re_run_failed(self, backfill_id: str) -> Backfill:
        """The same of what failed in it."""
        parameters = {"parentRunId": backfill_id, "strategy": "FROM_FAILURE"}
        return self._follow(_RE_RUN, "reexecutePartitionBackfill", parameters)[1]

    def processor_seconds(self, *names: str) -> float:
        """What processes whose command line has one of these names have used, without the workers of runs."""
        used = 0.0
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get(MARK) != str(self.folder):
                    continue
                line = " ".join(process.cmdline())
                if any(name in line for name in names) and "multiprocessing.spawn" not in line:
                    used += sum(process.cpu_times()[:2])
        return used

    def _follow(self, mutation: str, field: str, parameters: object) -> tuple[str, Backfill]:
        began_at = time.monotonic()
        launched = self._ask(mutation, parameters=parameters)[field]
        if launched["__typename"] != "LaunchBackfillSuccess":
            raise RuntimeError(f"the backfill is not launched: {launched}")
        while True:
            found = self._ask(_BACKFILL, id=launched["backfillId"])["partitionBackfillOrError"]
            seconds = time.monotonic() - began_at
            if found["status"] not in ("REQUESTED", "COMPLETING", "FAILING"):
                break
            if seconds > TIMEOUT_SECONDS:
                raise RuntimeError(f"the backfill is not over after {TIMEOUT_SECONDS:.0f} s")
            time.sleep(0.1)
        [counts] = found["assetBackfillData"]["assetBackfillStatuses"]
        runs, done, failed = found["runs"], counts["numPartitionsMaterialized"], counts["numPartitionsFailed"]
        run_seconds = max(run["endTime"] for run in runs) - min(run["startTime"] for run in runs)
        return launched["backfillId"], Backfill(done + failed, seconds, run_seconds, len(runs), done, failed)

    def _ask(self, query: str, **variables: object) -> Any:
        answer = self._client.post("/graphql", json={"query": query, "variables": variables}).raise_for_status().json()
        if "errors" in answer:
            raise RuntimeError(f"the UI's GraphQL answers {answer['errors']}")
        return answer["data"]


@contextmanager
def own_folder() -> Iterator[Path]:
    """A folder for embedded servers, removed at the end of the block; whatever still runs there is stopped."""
    with tempfile.TemporaryDirectory(prefix="usage-pipeline-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name).resolve()
        folder.chmod(0o755)
        try:
            yield folder
        finally:
            stop_left_overs(str(folder))


@contextmanager
def running_dev(
    folder: Path, *, module: str = "usage_pipeline.definitions", environment: dict[str, str] | None = None
) -> Iterator[DevSystem]:
    """`dev` until the end of the block. Its UI answers when the definitions are loaded: a page could be drawn."""
    port = free_port()
    code = _RUN_DEV.format(folder=str(folder), port=port, api_port=free_port(), module=module)
    inherited = {name: value for name, value in os.environ.items() if name not in _FOREIGN}
    began_at = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env={**inherited, **(environment or {})},
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )

    def is_up() -> bool:
        if process.poll() is not None:
            raise RuntimeError(f"`dev` does not start; see {folder / 'logs'}")
        return location_problem(f"http://{LOOPBACK}:{port}") is None

    try:
        wait_until(is_up, f"`dev` answers; see {folder / 'logs'}", TIMEOUT_SECONDS, poll_seconds=0.05)
        yield DevSystem(folder, port, time.monotonic() - began_at)
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


# A benchmark measures servers of its own, whatever the shell's settings are.
_FOREIGN = {"DATABASE_URL", "DB_URL", "REDIS_URL", "REDIS_HOST", "DAGSTER_POSTGRES_URL", "DAGSTER_HOME"}
