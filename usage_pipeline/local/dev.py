"""`usage-pipeline dev`: runs the servers that no setting names, migrations, Dagster and the HTTP service, until Ctrl-C.

It stops everything that it started, and nothing else.
"""

import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import redis

from usage_pipeline.local.first_partition import first_partition
from usage_pipeline.local.processes.children import Child, stop_children, stop_left_overs
from usage_pipeline.local.processes.dagster import (
    UNREACHABLE,
    DagsterProcesses,
    child_environment,
    for_dagster,
    location_problem,
    prepare_home,
    private_socket,
)
from usage_pipeline.local.processes.stop_signals import StopRequestedError, StopSignals
from usage_pipeline.local.second_terminal import line_to_paste, names_to_repeat, settings_to_repeat
from usage_pipeline.local.servers.both import LocalServers
from usage_pipeline.local.servers.ports import LOOPBACK, first_free_port, is_listening
from usage_pipeline.settings import Settings, load_settings
from usage_pipeline.storage.connecting.database import Database
from usage_pipeline.storage.postgres import first_line
from usage_pipeline.storage.redis import PinnedConnection, RedisUnavailable, client
from usage_pipeline.texts import visible

DEFAULT_PORT = 3000
DEFAULT_API_PORT = 8000
_POLL_SECONDS = 0.1
_UI_TIMEOUT_SECONDS = 180.0


class StartError(RuntimeError):
    """A process ended by itself, or was not ready in time. The message has the end of its log, or says where its log is."""


def run_dev(
    *,
    port: int = DEFAULT_PORT,
    api_port: int = DEFAULT_API_PORT,
    folder: Path = Path(".local"),
    module: str = "usage_pipeline.definitions",
    read_only: bool = False,
    worker: bool = False,
    **settings_overrides: object,
) -> int:
    """Runs everything on this machine until SIGINT, SIGTERM or a closed terminal. Returns the exit status, 0 or 1.

    DATABASE_URL and REDIS_URL (or `settings_overrides`) name PostgreSQL and Redis, each on its own. A server that is not named
    is embedded, with its data in `folder`. Archives, landed files and reports are there, too, unless ARCHIVE_URL, LANDING_URL
    and REPORTS_URL are set. Dagster's storage is DAGSTER_POSTGRES_URL, or embedded. The UI gets `port` and the HTTP service
    `api_port`, or the next free port. `module` holds the definitions. With `read_only`, nobody can launch, stop or switch
    anything in the UI, but sensors and schedules run. With `worker`, a process of its own drains all the time, and the drain
    sensors report for it. Unless USAGE_START_DATE is set, partitions begin where data begin. Call it in the main thread.

    Raises SettingsError, AccountError, AlreadyRunningError, PostgresServerError or RedisServerError if it cannot start, after
    it has stopped what it had started.
    """
    with StopSignals() as signals:
        try:
            wanted = _Wanted(port, api_port, module, read_only, worker)
            _run(load_settings(**settings_overrides), folder.resolve(), wanted, signals)
        except StopRequestedError:
            pass
        except StartError as error:
            _say(str(error), to_errors=True)
            return 1
        except Exception:
            # A signal may cut the start short, and then any error can follow.
            if not signals.requested:
                raise
        _say("Stopped.")
        return 0


@dataclass(frozen=True, slots=True)
class _Wanted:
    """How to run Dagster and the HTTP service, and on which ports if they are free."""

    port: int
    api_port: int
    module: str
    read_only: bool
    worker: bool


@dataclass(frozen=True, slots=True)
class _Launch:
    """The processes and servers that were started. While the start waits, it watches them and the signals."""

    dagster: DagsterProcesses
    servers: LocalServers
    signals: StopSignals
    children: list[Child] = field(default_factory=list)

    def start(self, wanted: _Wanted, *, code_socket: Path) -> None:
        """Starts the processes, and returns when UI and HTTP service answer. `children` has each as soon as it runs."""
        deadline = time.monotonic() + _UI_TIMEOUT_SECONDS
        self.children.append(self.dagster.start_code_server(wanted.module, code_socket))
        port = _free_port(wanted.port)
        self.children.append(self.dagster.start_webserver(port, code_socket=code_socket, read_only=wanted.read_only))
        url = f"http://{LOOPBACK}:{port}"
        # The daemon waits: on two cores, a third process that imports would only delay the UI.
        self._wait_until(lambda: is_listening(code_socket), deadline)
        self.children.append(self.dagster.start_daemon(webserver_port=port))
        self._wait_until(lambda: location_problem(url) != UNREACHABLE, deadline)
        if problem := location_problem(url):
            _say(f"The definitions do not load: {problem}", to_errors=True)
        _say(f"Dagster is at {url}{' (read-only)' if wanted.read_only else ''}")
        api_port = _free_port(wanted.api_port)
        self.children.append(self.dagster.start_api(api_port))
        self._wait_until(lambda: is_listening(api_port), deadline)
        _say(f"HTTP is at http://{LOOPBACK}:{api_port} (dashboard; documentation: /docs)")
        if wanted.worker:
            # Last: what comes before it, the drain sensors drain.
            self.children.append(self.dagster.start_worker())
            _say(f"A worker drains all the time; its log is {self.children[-1].log}")

    def run_until_stopped(self) -> None:
        """Waits until a signal comes. Raises StartError if a process ends by itself."""
        while not self.signals.wait(_POLL_SECONDS):
            self._expect_all_alive()

    def stop(self) -> None:
        if self.signals.requested:
            _say("Stopping…")
        stop_children(self.children)
        stop_left_overs(self.dagster.mark)  # processes that left the group of their parent

    def _wait_until(self, is_ready: Callable[[], bool], deadline: float) -> None:
        while not is_ready():
            self.signals.check()
            self._expect_all_alive()
            if time.monotonic() > deadline:
                raise StartError(
                    f"expected an answer within {_UI_TIMEOUT_SECONDS:.0f} s, came none; see the logs in {self.dagster.logs}"
                )
            self.signals.wait(_POLL_SECONDS)

    def _expect_all_alive(self) -> None:
        for child in self.children:
            if child.has_ended:
                raise StartError(
                    f"{child.name} ended by itself with status {child.process.returncode}."
                    f" The end of {child.log}:\n{child.log_tail()}"
                )
        servers = self.servers
        if servers.has_redis and servers.redis.has_ended:
            raise StartError(f"Redis ended by itself; its log is in {servers.redis.data_folder}")
        if servers.has_postgres and servers.postgres.has_ended:
            raise StartError(f"PostgreSQL ended by itself; its log is in {servers.postgres.data_folder}")


def _run(settings: Settings, folder: Path, wanted: _Wanted, signals: StopSignals) -> None:
    given = settings.model_fields_set
    with ExitStack() as stack:
        servers = stack.enter_context(
            LocalServers(
                folder,
                postgres=not {"database_url", "dagster_postgres_url"} <= given,
                redis=not {"redis_url", "redis_host"} & given,
            )
        )
        signals.check()
        mark = str(folder)
        if stop_left_overs(mark):
            _say("Stopped what an earlier start had left running.")
        database = Database.of_usage(settings) if "database_url" in given else servers.database_url
        if not servers.has_redis:
            _expect_redis(settings)
        _migrate(database, settings.usage_timezone, signals)

        home = folder / "dagster"
        code_socket = stack.enter_context(private_socket(home))
        prepare_home(home, code_socket=code_socket)
        storage = settings.dagster_postgres_url
        environment = child_environment(
            home,
            database_url=database if isinstance(database, str) else database.url,
            redis_url=servers.redis_url if servers.has_redis else settings.redis_dsn.get_secret_value(),
            dagster_postgres_url=for_dagster(storage.get_secret_value()) if storage else servers.dagster_postgres_url,
        )
        folders = {
            "ARCHIVE_URL": settings.archive_url or str(folder / "archive"),
            "LANDING_URL": settings.landing_url or str(folder / "landing"),
            "REPORTS_URL": settings.reports_url or str(folder / "reports"),
        }
        # Known before the code server starts: its sensors write links to the UI.
        port = _free_port(wanted.port)
        # Commands in another terminal need them like the processes here.
        shared = folders | {
            "DAGSTER_UI_URL": settings.dagster_ui_url or f"http://{LOOPBACK}:{port}",
            "USAGE_START_DATE": str(first_partition(database, settings)),
        }
        environment |= shared
        (folder / "landing").mkdir(exist_ok=True)
        dagster = DagsterProcesses(home, folder / "logs", environment, mark)
        launch = _Launch(dagster, servers, signals)
        stack.callback(launch.stop)
        launch.start(replace(wanted, port=port), code_socket=code_socket)
        ours = _embedded_urls(servers, is_database_given="database_url" in given)
        ours |= {name: value for name, value in shared.items() if name.lower() not in given}
        _say("In another terminal, paste this line first:")
        _say(line_to_paste(ours | settings_to_repeat(settings)))
        if secret := names_to_repeat(settings):
            _say(f"Then set there as here, since they may hold passwords: {', '.join(secret)}")
        _say(f"Logs are in {dagster.logs}. Ctrl-C stops everything.")
        launch.run_until_stopped()


def _free_port(wanted: int) -> int:
    port = first_free_port(wanted)
    if port != wanted:
        _say(f"Port {wanted} is taken; using {port}.")
    return port


def _expect_redis(settings: Settings) -> None:
    """Otherwise all processes would start, and complain in their logs only. Raises RedisUnavailable."""
    try:
        with closing(client(settings)) as pooled, PinnedConnection(pooled) as connection:
            connection.call("PING")
    except (redis.RedisError, RedisUnavailable) as error:
        hint = "without REDIS_URL and REDIS_HOST, `dev` starts a Redis of its own"
        raise RedisUnavailable(f"{first_line(error).rstrip('.')}; {hint}") from None


def _embedded_urls(servers: LocalServers, *, is_database_given: bool) -> dict[str, str]:
    """Settings with which other commands reach the embedded servers. That of Redis has its password."""
    urls = {}
    if servers.has_postgres and not is_database_given:
        urls["DATABASE_URL"] = servers.database_url
    if servers.has_redis:
        urls["REDIS_URL"] = servers.redis_url
    return urls


def _migrate(database: Database | str, time_zone: str, signals: StopSignals) -> None:
    from usage_pipeline.storage.migrations import migrate

    # A signal may interrupt this: each migration is a transaction, and a server that does not answer may take minutes to fail.
    with signals.interruptible():
        migrate(database, time_zone=time_zone)


def _say(text: str, *, to_errors: bool = False) -> None:
    # The terminal may be gone. Everything must be stopped all the same.
    with suppress(OSError):
        print(visible(text, but="\n"), file=sys.stderr if to_errors else sys.stdout, flush=True)
