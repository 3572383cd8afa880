"""`usage-pipeline dev`: servers where none are named, migrations, Dagster, and the HTTP service, until Ctrl-C.

Everything that was started here is stopped here, and nothing else.
"""

import shlex
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

from usage_pipeline.local.processes.children import Child, stop_children, stop_left_overs
from usage_pipeline.local.processes.dagster import (
    UNREACHABLE,
    DagsterProcesses,
    child_environment,
    location_problem,
    prepare_home,
    project_folder,
    with_driver,
)
from usage_pipeline.local.processes.stop_signals import StopRequestedError, StopSignals
from usage_pipeline.local.servers.both import LocalServers
from usage_pipeline.local.servers.ports import LOOPBACK, first_free_port, free_port, is_listening
from usage_pipeline.settings import Settings, load_settings

DEFAULT_PORT = 3000
DEFAULT_API_PORT = 8000
_POLL_SECONDS = 0.1
_UI_TIMEOUT_SECONDS = 180.0


class StartError(RuntimeError):
    """A process ended by itself or did not get ready in time; the message ends with the tail of its log."""


def run_dev(
    *,
    port: int = DEFAULT_PORT,
    api_port: int = DEFAULT_API_PORT,
    folder: Path = Path(".local"),
    module: str = "usage_pipeline.definitions",
    read_only: bool = False,
    **settings_overrides: object,
) -> int:
    """Run everything on this machine until SIGINT, SIGTERM or a closed terminal. Returns the exit status, 0 or 1.

    PostgreSQL and Redis are those of DATABASE_URL and REDIS_URL (or of `settings_overrides`) when set, each on its own;
    otherwise embedded ones with their data in `folder`, where archives and landed files are too unless ARCHIVE_URL and
    LANDING_URL are set. Dagster's storage is DAGSTER_POSTGRES_URL or embedded. The UI gets `port` and the HTTP service
    `api_port`, or the next one that is free. `module` holds the definitions. With `read_only` nobody can launch, stop or
    switch anything in the UI; sensors and schedules run all the same. Needs the main thread.

    Raises SettingsError, AlreadyRunningError, NoCheckoutError, PostgresServerError or RedisServerError when the start
    is not possible, after stopping what had been started.
    """
    with StopSignals() as signals:
        try:
            wanted = _Wanted(port, api_port, module, read_only)
            _run(load_settings(**settings_overrides), folder.resolve(), wanted, signals)
        except StopRequestedError:
            pass
        except StartError as error:
            _say(str(error), to_errors=True)
            return 1
        except Exception:
            # A start that was cut short by the signal fails in its own way.
            if not signals.requested:
                raise
        _say("Stopped.")
        return 0


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What of Dagster and the HTTP service is to run, and on which ports where they are free."""

    port: int
    api_port: int
    module: str
    read_only: bool


@dataclass(frozen=True, slots=True)
class _Launch:
    """What has been started, and what a start must look at while it waits."""

    dagster: DagsterProcesses
    servers: LocalServers
    signals: StopSignals
    children: list[Child] = field(default_factory=list)

    def start(self, wanted: _Wanted, *, code_port: int) -> None:
        """Starts the four processes and returns once UI and HTTP service answer; each is a child as soon as it exists."""
        deadline = time.monotonic() + _UI_TIMEOUT_SECONDS
        self.children.append(self.dagster.start_code_server(wanted.module, code_port))
        port = first_free_port(wanted.port)
        if port != wanted.port:
            _say(f"Port {wanted.port} is taken; using {port}.")
        self.children.append(self.dagster.start_webserver(port, code_server_port=code_port, read_only=wanted.read_only))
        url = f"http://{LOOPBACK}:{port}"
        # On two cores a third process that imports would only delay the UI.
        self._wait_until(lambda: is_listening(code_port), deadline)
        self.children.append(self.dagster.start_daemon(webserver_port=port))
        self._wait_until(lambda: location_problem(url) != UNREACHABLE, deadline)
        if problem := location_problem(url):
            _say(f"The definitions do not load: {problem}", to_errors=True)
        _say(f"Dagster is at {url}{' (read-only)' if wanted.read_only else ''}")
        api_port = first_free_port(wanted.api_port)
        self.children.append(self.dagster.start_api(api_port))
        self._wait_until(lambda: is_listening(api_port), deadline)
        _say(f"HTTP is at http://{LOOPBACK}:{api_port} (dashboard; documentation: /docs)")

    def run_until_stopped(self) -> None:
        """Until a signal comes. Raises StartError when a process ends by itself."""
        while not self.signals.wait(_POLL_SECONDS):
            self._expect_all_alive()

    def stop(self) -> None:
        if self.signals.requested:
            _say("Stopping…")
        stop_children(self.children)
        stop_left_overs(self.dagster.mark)  # whatever left its group

    def _wait_until(self, is_ready: Callable[[], bool], deadline: float) -> None:
        while not is_ready():
            self.signals.check()
            self._expect_all_alive()
            if time.monotonic() > deadline:
                raise StartError(f"no answer within {_UI_TIMEOUT_SECONDS:.0f} s; see the logs in {self.dagster.logs}")
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
    project = project_folder()
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
        database_url = settings.database_url.get_secret_value() if "database_url" in given else servers.database_url
        _migrate(database_url, settings.usage_timezone, signals)

        home = folder / "dagster"
        code_port = free_port()
        prepare_home(home, project, code_server_port=code_port)
        storage = settings.dagster_postgres_url
        environment = child_environment(
            home,
            database_url=database_url,
            redis_url=servers.redis_url if servers.has_redis else settings.redis_dsn.get_secret_value(),
            dagster_postgres_url=with_driver(storage.get_secret_value()) if storage else servers.dagster_postgres_url,
        )
        folders = {
            "ARCHIVE_URL": settings.archive_url or str(folder / "archive"),
            "LANDING_URL": settings.landing_url or str(folder / "landing"),
        }
        environment |= folders
        (folder / "landing").mkdir(exist_ok=True)
        dagster = DagsterProcesses(project, home, folder / "logs", environment, mark)
        launch = _Launch(dagster, servers, signals)
        stack.callback(launch.stop)
        launch.start(wanted, code_port=code_port)
        # What is set already may hold a password, and is not repeated.
        urls = _embedded_urls(servers, is_database_given="database_url" in given)
        urls |= {name: url for name, url in folders.items() if name.lower() not in given}
        if urls:
            _say("In another terminal, paste this line first:")
            _say(line_to_paste(urls))
        _say(f"Logs are in {dagster.logs}. Ctrl-C stops everything.")
        launch.run_until_stopped()


def _embedded_urls(servers: LocalServers, *, is_database_given: bool) -> dict[str, str]:
    """Settings by which other commands reach the servers started here; they have no password."""
    urls = {}
    if servers.has_postgres and not is_database_given:
        urls["DATABASE_URL"] = servers.database_url
    if servers.has_redis:
        urls["REDIS_URL"] = servers.redis_url
    return urls


def line_to_paste(urls: Mapping[str, str]) -> str:
    """A line for a shell, by which it finds this `usage-pipeline`, its Python, and the servers and folders of `urls`."""
    exports = "export " + " ".join(f"{name}={shlex.quote(url)}" for name, url in urls.items())
    activate = Path(sys.prefix) / "bin" / "activate"
    # Without a virtual environment the command is found wherever this one was.
    is_in_one = sys.prefix != sys.base_prefix and activate.exists()
    return f"source {shlex.quote(str(activate))} && {exports}" if is_in_one else exports


def _migrate(database_url: str, time_zone: str, signals: StopSignals) -> None:
    from usage_pipeline.storage.migrations import migrate

    # Each migration is a transaction, and a server that does not answer may take minutes to fail.
    with signals.interruptible():
        migrate(database_url, time_zone=time_zone)


def _say(text: str, *, to_errors: bool = False) -> None:
    # The terminal may be gone, and that must not keep anything from being stopped.
    with suppress(OSError):
        print(text, file=sys.stderr if to_errors else sys.stdout, flush=True)
