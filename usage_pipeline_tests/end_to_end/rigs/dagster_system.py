"""Web server and daemon as processes of their own, with the project's dagster.yaml and workspace.yaml, on embedded servers.

Each of the two starts its own code server, as workspace.yaml says; or both share one that is a process of its own, as in
deployments. Everything carries a mark and is stopped by it.
"""

import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg
import redis

from usage_pipeline.local.processes.children import MARK, Child, start_child, stop_children, stop_left_overs
from usage_pipeline.local.processes.dagster import child_environment, prepare_home
from usage_pipeline.local.servers.both import LocalServers
from usage_pipeline.local.servers.ports import LOOPBACK, free_port, is_listening
from usage_pipeline.storage.migrations import migrate
from usage_pipeline_tests.rigs import waiting
from usage_pipeline_tests.rigs.places import PROJECT, servers_folder

TIMEOUT_SECONDS = 120
# Looks in a row, a tenth of a second apart.
QUIET_LOOKS = 10
WEBSERVER = "usage_pipeline.defs.webserver"
LOCATION = {"repositoryName": "__repository__", "repositoryLocationName": "usage_pipeline"}
FINISHED = {"SUCCESS", "FAILURE", "CANCELED"}
_LOADED = "{ workspaceOrError { ... on Workspace { locationEntries { locationOrLoadError { __typename } } } } }"
_DAEMON = "{ instance { daemonHealth { allDaemonStatuses { daemonType healthy } } } }"
_LAUNCH_BACKFILL = """mutation ($parameters: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $parameters) {
    __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }"""
_RETRY_BACKFILL = """mutation ($parameters: ReexecutionParams!) { reexecutePartitionBackfill(reexecutionParams: $parameters) {
    __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }"""
_BACKFILL = """query ($id: String!) { partitionBackfillOrError(backfillId: $id) { ... on PartitionBackfill {
    status error { message } runs { id status startTime endTime } assetBackfillData { assetBackfillStatuses {
        ... on AssetPartitionsStatusCounts { numPartitionsTargeted numPartitionsMaterialized numPartitionsFailed } } } } } }"""
_BACKFILLS = "{ partitionBackfillsOrError(limit: 20) { ... on PartitionBackfills { results { id } } } }"
_LAUNCH_RUN = """mutation ($parameters: ExecutionParams!) { launchRun(executionParams: $parameters) {
    __typename ... on LaunchRunSuccess { run { id } } ... on PythonError { message } } }"""
_RUN = "query ($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"
_ERRORS = """query ($id: ID!) { logsForRun(runId: $id) { ... on EventConnection { events {
    ... on ErrorEvent { error { message } } } } } }"""
_CANCEL = """mutation ($id: String!) { terminateRun(runId: $id) {
    __typename ... on TerminateRunFailure { message } ... on PythonError { message } } }"""
_RUNS = """query ($filter: RunsFilter!) { runsOrError(filter: $filter) { ... on Runs {
    results { id status parentRunId tags { key value } } } } }"""
_POOL = """{ instance { concurrencyLimit(concurrencyKey: "redis_drain") {
    claimedSlots { runId } pendingSteps { runId } } } }"""
_SWITCHES = """query ($repository: RepositorySelector!) { repositoryOrError(repositorySelector: $repository) {
    ... on Repository { schedules { name scheduleState { ...switch } } sensors { name sensorState { ...switch } } } } }
    fragment switch on InstigationState { id status ticks(limit: 1) { status } }"""
_START_SENSOR = "mutation ($selector: SensorSelector!) { startSensor(sensorSelector: $selector) { __typename } }"
_STOP_SCHEDULE = "mutation ($id: String!) { stopRunningSchedule(id: $id) { __typename } }"
_STOP_SENSOR = "mutation ($id: String!) { stopSensor(id: $id) { __typename } }"
_PARTITIONS = """query ($key: AssetKeyInput!) { assetNodeOrError(assetKey: $key) { ... on AssetNode {
    assetPartitionStatuses { ... on TimePartitionStatuses { ranges { status startKey endKey } } } } } }"""


# Most conditions are questions to a UI that has enough to do.
wait_until = partial(waiting.wait_until, timeout_seconds=TIMEOUT_SECONDS, poll_seconds=0.1)


class DagsterSystem:
    """The running whole: GraphQL as the UI speaks it, and the processes, which may be killed."""

    def __init__(self, folder: Path, servers: LocalServers, *, shares_code_server: bool, **settings: str) -> None:
        self.folder, self.servers = folder, servers
        self.home = folder / "dagster"
        self._code_socket = folder / "grpc.sock" if shares_code_server else None
        prepare_home(self.home, code_socket=self._code_socket)
        self._workspace = (self.home if shares_code_server else PROJECT) / "workspace.yaml"
        urls = {"database_url": servers.database_url, "redis_url": servers.redis_url}
        environment = child_environment(self.home, **urls, dagster_postgres_url=servers.dagster_postgres_url)
        # Whoever runs the tests may have settings of their own; here these count.
        self._environment = environment | {"USAGE_TIMEZONE": "UTC"} | settings
        self.children: dict[str, Child] = {}
        self.port = free_port()
        self.url = f"http://{LOOPBACK}:{self.port}"
        self._client = httpx.Client(base_url=self.url, timeout=60, trust_env=False)

    def start(self) -> None:
        """Web server first, then the daemon: both at once would make Dagster's tables twice."""
        if self._code_socket is not None:
            self.start_code_server()
        self.start_webserver()
        wait_until(self._is_loaded, "a web server that has loaded the definitions")
        self.start_daemon()

    def adapt(self, old: str, new: str) -> None:
        """Changes a line of this instance's dagster.yaml, for processes that start from now on."""
        config = self.home / "dagster.yaml"
        text = config.read_text()
        assert text.count(old) == 1, f"{old} is not in dagster.yaml once"
        config.write_text(text.replace(old, new))

    def start_code_server(self) -> None:
        """The one that both share, until it listens."""
        code_socket = self._code_socket
        assert code_socket is not None
        target = ("-m", "usage_pipeline.definitions", "--location-name", "usage_pipeline")
        self._start("code-server", "dagster", "api", "grpc", "--socket", str(code_socket), *target)
        wait_until(lambda: is_listening(code_socket), "a code server that listens")

    def start_webserver(self) -> None:
        self._start_webserver("webserver", self.port)

    def start_another_webserver(self, *options: str, **settings: str) -> str:
        """A second one, until it listens; its address."""
        port = free_port()
        self._start_webserver("another-webserver", port, *options, **settings)
        wait_until(lambda: is_listening(port), "another web server that listens")
        return f"http://{LOOPBACK}:{port}"

    def _start_webserver(self, name: str, port: int, *options: str, **settings: str) -> None:
        place = ("--host", LOOPBACK, "--port", str(port), "--workspace", str(self._workspace))
        self._start(name, WEBSERVER, *place, *options, **settings)

    def start_daemon(self) -> None:
        self._start("daemon", "dagster._daemon", "run", "--workspace", str(self._workspace))

    def stop(self) -> None:
        self._client.close()
        stop_children(self.children.values())
        stop_left_overs(str(self.folder))

    def ask(self, query: str, **variables: object) -> Any:
        answer = self._client.post("/graphql", json={"query": query, "variables": variables}).raise_for_status().json()
        assert "errors" not in answer, answer["errors"]
        return answer["data"]

    def launch_backfill(self, asset: str, days: Sequence[date]) -> str:
        """As the UI launches it; the id."""
        parameters = {"assetSelection": [path_of(asset)], "partitionNames": [str(day) for day in days]}
        return self._launched(self.ask(_LAUNCH_BACKFILL, parameters=parameters)["launchPartitionBackfill"])

    def re_run_failed(self, backfill_id: str) -> str:
        """As the button of that name does; the id of the new backfill."""
        parameters = {"parentRunId": backfill_id, "strategy": "FROM_FAILURE"}
        return self._launched(self.ask(_RETRY_BACKFILL, parameters=parameters)["reexecutePartitionBackfill"])

    def backfills(self) -> list[Any]:
        """The newest ones, with their ids."""
        listed: list[Any] = self.ask(_BACKFILLS)["partitionBackfillsOrError"]["results"]
        return listed

    def backfill(self, backfill_id: str) -> Any:
        """What it is like now."""
        return self.ask(_BACKFILL, id=backfill_id)["partitionBackfillOrError"]

    def finished_backfill(self, backfill_id: str) -> Any:
        """What it is like at its end; `counts` has targeted, materialized and failed partitions of its one asset."""

        def finished() -> Any:
            found = self.backfill(backfill_id)
            return found if found["status"] not in ("REQUESTED", "COMPLETING", "FAILING") else None

        found = wait_until(finished, "the end of the backfill", timeout_seconds=240)
        [counts] = found["assetBackfillData"]["assetBackfillStatuses"]
        names = ("numPartitionsTargeted", "numPartitionsMaterialized", "numPartitionsFailed")
        return found | {"counts": tuple(counts[name] for name in names)}

    def launch_run(self, job: str, *assets: str) -> str:
        """Of all assets of the job, or some; the id."""
        selector = {**LOCATION, "jobName": job, "assetSelection": [path_of(asset) for asset in assets] or None}
        launched = self.ask(_LAUNCH_RUN, parameters={"selector": selector, "mode": "default"})["launchRun"]
        assert launched["__typename"] == "LaunchRunSuccess", launched
        return str(launched["run"]["id"])

    def status(self, run_id: str) -> str:
        return str(self.ask(_RUN, id=run_id)["runOrError"]["status"])

    def finished_run(self, run_id: str) -> str:
        """The status that it ends with. Errors are printed, for the report of a test that did not expect them."""
        status: str = wait_until(
            lambda: (status := self.status(run_id)) in FINISHED and status, f"the end of run {run_id}"
        )
        for event in self.ask(_ERRORS, id=run_id)["logsForRun"]["events"]:
            if event.get("error"):
                print(f"run {run_id}: {event['error']['message']}")
        return status

    def cancel(self, run_id: str) -> None:
        """As the button "Terminate" does; Dagster refuses it for a run that starts at that moment."""
        answer = self.ask(_CANCEL, id=run_id)["terminateRun"]
        assert answer["__typename"] == "TerminateRunSuccess", answer

    def turn_on(self, sensor: str) -> None:
        """As with the switch on the page "Automation"."""
        self.ask(_START_SENSOR, selector={**LOCATION, "sensorName": sensor})

    def turn_off(self, *names: str) -> None:
        """These schedules and sensors, or all of them, until they stay off.

        At the end of a tick Dagster stores the whole state that it has read just before: what was turned off meanwhile is on
        again.
        """
        looks = 0

        def stays_off() -> bool:
            nonlocal looks
            looks = 0 if self._turn_off_once(names) else looks + 1
            return looks == QUIET_LOOKS

        wait_until(stays_off, "schedules and sensors that stay off")

    def silence(self) -> None:
        """Turns off all schedules and sensors, and waits for the end of the runs that they have asked for."""
        self.turn_off()
        under_way = ["NOT_STARTED", "QUEUED", "STARTING", "STARTED"]
        wait_until(lambda: not self.runs(statuses=under_way), "the end of all runs")

    def _turn_off_once(self, names: Sequence[str]) -> bool:
        """Whether there was something to turn off, or a tick was under way."""
        found = self.ask(_SWITCHES, repository=LOCATION)["repositoryOrError"]
        was_busy = False
        for kind, mutation in (("schedule", _STOP_SCHEDULE), ("sensor", _STOP_SENSOR)):
            for one in found[f"{kind}s"]:
                state = one[f"{kind}State"]
                if names and one["name"] not in names:
                    continue
                if state["status"] == "RUNNING":
                    self.ask(mutation, id=state["id"])
                    was_busy = True
                was_busy |= any(tick["status"] == "STARTED" for tick in state["ticks"])
        return was_busy

    def runs(self, **filters: object) -> list[Any]:
        """Those that meet the filters, newest first."""
        listed: list[Any] = self.ask(_RUNS, filter=filters)["runsOrError"]["results"]
        return listed

    def partition_statuses(self, asset: str) -> list[tuple[str, str, str]]:
        """(status, first key, last key) of each range, as the bar on the asset's page shows them."""
        node = self.ask(_PARTITIONS, key=path_of(asset))["assetNodeOrError"]
        return [(one["status"], one["startKey"], one["endKey"]) for one in node["assetPartitionStatuses"]["ranges"]]

    def processes(self, *words: str) -> list[psutil.Process]:
        """Those of this system whose command line has all these words."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) != str(self.folder) or process.status() == psutil.STATUS_ZOMBIE:
                    continue
                line = " ".join(process.cmdline())
            except psutil.Error:
                continue
            if all(word in line for word in words):
                found.append(process)
        return found

    def kill(self, name: str) -> None:
        """SIGKILL to one of the processes that were started here."""
        self.children[name].process.send_signal(signal.SIGKILL)
        self.children[name].process.wait(30)

    def held_slots(self) -> list[str]:
        """The runs that hold or wait for a slot of the drains' pool."""
        found = self.ask(_POOL)["instance"]["concurrencyLimit"]
        return [one["runId"] for one in (*found["claimedSlots"], *found["pendingSteps"])]

    @contextmanager
    def blocked(self, table: str) -> Iterator[None]:
        """Who writes to the table waits until the end of the block."""
        with self.postgres() as connection, connection.transaction():
            connection.execute(f"lock table {table} in exclusive mode")
            yield

    @contextmanager
    def postgres(self) -> Iterator[psycopg.Connection]:
        with psycopg.connect(self.servers.database_url, autocommit=True) as connection:
            yield connection

    @contextmanager
    def redis(self) -> Iterator[redis.Redis]:
        with redis.Redis.from_url(self.servers.redis_url) as client:
            yield client

    def _start(self, name: str, module: str, *arguments: str, **settings: str) -> None:
        self.children[name] = start_child(
            name,
            [sys.executable, "-m", module, *arguments],
            mark=str(self.folder),
            environment=self._environment | settings,
            folder=PROJECT,
            log=self.folder / "logs" / f"{name}-{time.monotonic_ns()}.log",
        )

    def _is_loaded(self) -> bool:
        child = self.children["webserver"]
        assert not child.has_ended, child.log_tail()
        try:
            [entry] = self.ask(_LOADED)["workspaceOrError"]["locationEntries"]
        except httpx.TransportError:
            return False
        assert entry["locationOrLoadError"]["__typename"] == "RepositoryLocation", child.log_tail()
        return True

    @staticmethod
    def _launched(answer: Any) -> str:
        assert answer["__typename"] == "LaunchBackfillSuccess", answer
        return str(answer["backfillId"])


def path_of(asset: str) -> dict[str, list[str]]:
    """`usage/api_key_daily` as GraphQL's input."""
    return {"path": asset.split("/")}


@contextmanager
def running_system(
    *, shares_code_server: bool = False, adapt: Sequence[tuple[str, str]] = (), **settings: str
) -> Iterator[DagsterSystem]:
    """A system on servers and in a folder of its own, until the end of the block; `adapt`: changes of its dagster.yaml."""
    with servers_folder() as folder, _running_in(folder, shares_code_server, adapt, settings) as system:
        yield system


@contextmanager
def _running_in(
    folder: Path, shares_code_server: bool, adapt: Sequence[tuple[str, str]], settings: Mapping[str, str]
) -> Iterator[DagsterSystem]:
    with LocalServers(folder, durable=False) as servers:
        migrate(servers.database_url)
        system = DagsterSystem(folder, servers, shares_code_server=shares_code_server, **settings)
        for old, new in adapt:
            system.adapt(old, new)
        try:
            system.start()
            yield system
        finally:
            system.stop()
