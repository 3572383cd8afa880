"""PostgreSQL and Redis on this machine, for `usage-pipeline dev`, the demo and the tests: a folder in, URLs out."""

import fcntl
import os
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from usage_pipeline.local.servers.postgres import RunningPostgres, create_database, start_postgres, stop_postgres
from usage_pipeline.local.servers.redis import RunningRedis, start_redis, stop_redis


class AlreadyRunningError(RuntimeError):
    """Another process uses this folder. The message has its process id."""


class FolderError(RuntimeError):
    """The folder cannot be made, or its files cannot be read or written. The message is one line."""


class LocalServers:
    """Embedded servers with their data below `folder`, started on entry and stopped on exit.

    The data stay. A folder belongs to one process at a time. A second process gets AlreadyRunningError, because it would share
    the servers and then stop them while the first needs them. The lock is taken on entry even without a server, because it
    guards other files in the folder, too. The next owner replaces what a killed owner left running.
    """

    def __init__(self, folder: Path, *, postgres: bool = True, redis: bool = True, durable: bool = True) -> None:
        """`durable=False` turns PostgreSQL's fsync off, for tests. Redis always writes durably."""
        self._folder = folder.resolve()
        self._wants_postgres = postgres
        self._wants_redis = redis
        self._durable = durable
        self._running = ExitStack()
        self._postgres: RunningPostgres | None = None
        self._redis: RunningRedis | None = None

    def __enter__(self) -> Self:
        try:
            self._start()
        except OSError as error:
            what = f"{self._folder}: expected a folder for the data, whose files this user may read and write"
            is_file = isinstance(error, FileExistsError | NotADirectoryError)
            came = "a file" if is_file else str(error.strerror or error)
            raise FolderError(f"{what}, came {came}: {error.filename or self._folder}") from None
        return self

    def _start(self) -> None:
        with ExitStack() as stack:
            stack.callback(os.close, _lock(self._folder))
            if self._wants_redis:
                self._redis = start_redis(self._folder / "redis")
                stack.callback(stop_redis, self._redis)
            if self._wants_postgres:
                # Registered before the start, so that an interrupted one leaves nothing behind either.
                stack.callback(stop_postgres, self._folder / "postgres")
                self._postgres = start_postgres(self._folder / "postgres", durable=self._durable)
                for database in ("usage", "dagster"):
                    create_database(self._postgres, database)
            self._running = stack.pop_all()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._postgres = self._redis = None
        self._running.close()

    @property
    def postgres(self) -> RunningPostgres:
        """The running PostgreSQL. Raises RuntimeError outside of the `with` block, or when none was wanted."""
        if self._postgres is None:
            raise RuntimeError("no embedded PostgreSQL is running here")
        return self._postgres

    @property
    def redis(self) -> RunningRedis:
        """The running Redis. Raises RuntimeError outside of the `with` block, or when none was wanted."""
        if self._redis is None:
            raise RuntimeError("no embedded Redis is running here")
        return self._redis

    @property
    def has_postgres(self) -> bool:
        return self._postgres is not None

    @property
    def has_redis(self) -> bool:
        return self._redis is not None

    @property
    def database_url(self) -> str:
        return self.postgres.url("usage")

    @property
    def dagster_postgres_url(self) -> str:
        """The URL with its driver: SQLAlchemy 2.1 takes a bare `postgresql://` as psycopg 3, which breaks the event log."""
        return self.postgres.url("dagster", driver="psycopg2")

    @property
    def redis_url(self) -> str:
        return self.redis.url


def _lock(folder: Path) -> int:
    """The descriptor of the lock of the folder. The kernel releases the lock when this process ends in any way."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.read(descriptor, 32).decode(errors="replace").strip() or "unknown"
        os.close(descriptor)
        raise AlreadyRunningError(
            f"{folder} is in use by process {owner}: stop that one, or work in another folder"
        ) from None
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"{os.getpid()}\n".encode())
    return descriptor
