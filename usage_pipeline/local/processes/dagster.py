"""The processes of a local Dagster: a code server for web server and daemon, their DAGSTER_HOME, and the HTTP service.

The code server obeys whoever reaches it, so it listens on a socket in a folder that only its user may enter.

Dagster runs only in child processes. Nothing here imports it.
"""

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, urlencode

import httpx
from psycopg.conninfo import conninfo_to_dict

import usage_pipeline
from usage_pipeline.local.processes.children import Child, start_child
from usage_pipeline.local.servers.ports import LONGEST_SOCKET_PATH, LOOPBACK
from usage_pipeline.storage.connecting.database import system_authorities

LOCATION = "usage_pipeline"
UNREACHABLE = "unreachable"
# A range run has an event for each of its days; one by one, writing them takes longer than making the days.
EVENT_BATCHES = {"DAGSTER_EVENT_BATCH_SIZE": "100"}
_LATER = "usage_pipeline.local.processes.run_when_served"
_WORKSPACE, _SOCKET = "workspace.yaml", "grpc.sock"
_LOCATIONS = """{ workspaceOrError { ... on Workspace { locationEntries {
    locationOrLoadError { __typename ... on PythonError { message } } } } } }"""


@dataclass(frozen=True, slots=True)
class DagsterProcesses:
    """What the processes share: DAGSTER_HOME, their logs, and their environment. They work in the folder of this process."""

    home: Path
    logs: Path
    environment: Mapping[str, str]
    mark: str

    def start_code_server(self, module: str, code_socket: Path) -> Child:
        """Serve the definitions of `module` on a socket. It opens when they are loaded, or failed to load.

        It uses `code-server start`, not `api grpc`, because that can load the code again when somebody clicks "Reload".
        """
        target = ("--module-name", module, "--location-name", LOCATION, "--working-directory", str(self.home))
        return self._start("code-server", "dagster", "code-server", "start", "--socket", str(code_socket), *target)

    def start_webserver(self, port: int, *, code_socket: Path, read_only: bool = False) -> Child:
        """Serve the UI on a loopback port, after the code server listens. With `read_only` it refuses every change."""
        arguments = ["--host", LOOPBACK, "--port", str(port), *self._workspace]
        if read_only:
            arguments.append("--read-only")
        return self._start("webserver", _LATER, str(code_socket), "usage-pipeline-webserver", *arguments)

    def start_daemon(self, *, webserver_port: int) -> Child:
        """Run schedules, sensors and the run queue, after the UI listens."""
        return self._start("daemon", _LATER, str(webserver_port), "dagster-daemon", "run", *self._workspace)

    def start_api(self, port: int) -> Child:
        """Serve the HTTP service on a loopback port."""
        return self._start("api", "usage_pipeline.cli", "api", "--host", LOOPBACK, "--port", str(port))

    def start_worker(self) -> Child:
        """Drain all the time, as `usage-pipeline drain --watch` does. It ends by itself on SIGTERM, after its batch."""
        return self._start("worker", "usage_pipeline.cli", "drain", "--watch")

    @property
    def _workspace(self) -> tuple[str, str]:
        return "--workspace", str(self.home / _WORKSPACE)

    def _start(self, name: str, module: str, *arguments: str) -> Child:
        return start_child(
            name,
            [sys.executable, "-m", module, *arguments],
            mark=self.mark,
            environment=self.environment,
            folder=Path.cwd(),
            log=self.logs / f"{name}.log",
        )


def instance_file() -> Path:
    """dagster.yaml: that of the working directory, otherwise ours. A wheel has it in the package, a checkout beside it."""
    package = Path(usage_pipeline.__file__).resolve().parent
    found = (folder / "dagster.yaml" for folder in (Path.cwd(), package))
    return next((path for path in found if path.is_file()), package.parent / "dagster.yaml")


def prepare_home(home: Path, *, code_socket: Path | None = None) -> None:
    """Make DAGSTER_HOME with a copy of dagster.yaml, and a workspace (in JSON, which is YAML) of a code server."""
    home.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(instance_file(), home / "dagster.yaml")
    if code_socket is not None:
        server = {"socket": str(code_socket), "location_name": LOCATION}
        (home / _WORKSPACE).write_text(json.dumps({"load_from": [{"grpc_server": server}]}))


@contextmanager
def private_socket(home: Path) -> Iterator[Path]:
    """A path for the socket of a code server, in a folder that only this user may enter. What is there goes at the end.

    The folder is below `home`, or below TMPDIR where the path would be too long for a socket.
    """
    folder = home / "code-server"
    is_short = len(os.fsencode(folder / _SOCKET)) <= LONGEST_SOCKET_PATH
    if is_short:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
    else:
        folder = Path(tempfile.mkdtemp(prefix="usage-pipeline-"))
    try:
        # What a killed code server left.
        (folder / _SOCKET).unlink(missing_ok=True)
        yield folder / _SOCKET
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def location_problem(url: str) -> str | None:
    """Why the UI at `url` does not show the definitions: UNREACHABLE (so far), their error, or None if it shows them.

    None as well for a UI that asks who we are: it answers, and shows nothing to us.
    """
    try:
        # Without `trust_env`: a proxy of the shell has no business with a loopback address.
        answer = httpx.post(f"{url}/graphql", json={"query": _LOCATIONS}, timeout=30, trust_env=False)
        if answer.status_code in (401, 403):
            return None
        (entry,) = answer.raise_for_status().json()["data"]["workspaceOrError"]["locationEntries"]
    except (httpx.HTTPError, KeyError, ValueError):
        return UNREACHABLE
    found = entry["locationOrLoadError"]
    if found is None or "DagsterUserCodeUnreachableError" in found.get("message", ""):
        return UNREACHABLE
    return str(found["message"]).strip() if found["__typename"] == "PythonError" else None


def child_environment(home: Path, *, database_url: str, redis_url: str, dagster_postgres_url: str) -> dict[str, str]:
    """The environment of this process, with the addresses of the servers, and without Dagster settings of the shell.

    Those of the guard before Dagster's web server are ours.
    """
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name.startswith("DAGSTER_UI_") or not name.startswith("DAGSTER_")
    }
    return inherited | {
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "DAGSTER_POSTGRES_URL": dagster_postgres_url,
        "DAGSTER_HOME": str(home),
        "PYTHONUNBUFFERED": "1",
        # Otherwise a file in the working directory, such as `queue.py`, would be imported in place of a library. Dagster takes
        # the first place of imports for that directory, and leaves it out when it loads definitions: it shall be no other.
        "PYTHONSAFEPATH": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, (str(home), os.environ.get("PYTHONPATH")))),
        **EVENT_BATCHES,
    }


def for_dagster(url: str) -> str:
    """`url` for the storage of Dagster, whose library is psycopg2, and which SQLAlchemy reads.

    To SQLAlchemy 2.1 a bare `postgresql://` means psycopg 3, which Dagster cannot use; and several hosts it takes as parameters
    only. libpq reads them there, too.
    """
    scheme, _, rest = url.partition("://")
    if scheme not in ("postgresql", "postgres"):
        return url
    address, _, query = rest.partition("?")
    instead = _hosts(url) | system_authorities(url)
    if "host" in instead:
        user, at, _ = address.rpartition("@")
        address = f"{user}{at}/{address.rpartition('@')[2].partition('/')[2]}"
    if instead:
        others = [(name, value) for name, value in parse_qsl(query, keep_blank_values=True) if name not in instead]
        query = urlencode([*others, *instead.items()])
    return f"postgresql+psycopg2://{address}{'?' if query else ''}{query}"


def _hosts(url: str) -> dict[str, str]:
    """The parameters that name several hosts, each with its port; empty for one host."""
    parts = conninfo_to_dict(url)
    hosts = str(parts.get("host", "")).split(",")
    if len(hosts) == 1:
        return {}
    # libpq takes one port for all.
    ports = str(parts.get("port", "")).split(",")
    ports *= len(hosts) if len(ports) == 1 else 1
    return {"host": ",".join(hosts), "port": ",".join(port or "5432" for port in ports)}
