"""Real servers for every test that asks: started once a session, a fresh database for each test.

And launchers: processes of their own, so that they can be signalled and killed like a user's.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path

import psutil
import psycopg
import pytest
import redis
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict
from pydantic import AliasChoices

from usage_pipeline.local.processes.children import stop_left_overs
from usage_pipeline.local.servers.both import LocalServers
from usage_pipeline.local.servers.postgres import RunningPostgres, copy_database, create_database, stop_postgres
from usage_pipeline.local.servers.redis import stop_left_over_redis
from usage_pipeline.settings import Settings, load_settings
from usage_pipeline.storage.migrations import migrate
from usage_pipeline.storage.roles.grants import API_ROLE, DRAIN_ROLE
from usage_pipeline_tests.rigs.commands import Run, run_command
from usage_pipeline_tests.rigs.places import servers_folder
from usage_pipeline_tests.rigs.waiting import T, wait_until

_TEMPLATE = "usage_template"

# How long an example takes says more about the machine than about the code. Tests that use a server empty it themselves.
hypothesis_settings.register_profile(
    "any-machine",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
hypothesis_settings.load_profile("any-machine")


def _setting_variables() -> set[str]:
    names = {name.upper() for name in Settings.model_fields}
    for field in Settings.model_fields.values():
        if isinstance(field.validation_alias, AliasChoices):
            names.update(str(choice) for choice in field.validation_alias.choices)
    return names


@pytest.fixture(autouse=True)
def _no_settings_of_the_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer's DATABASE_URL must never be what a test empties."""
    unwanted = _setting_variables()
    for name in list(os.environ):
        if name.upper() in unwanted or name.startswith(("DAGSTER_", "PG")):
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _scans_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each drain looks for keys that nobody announced. A scan that a busy machine holds up would put off the next ones."""
    monkeypatch.setattr("usage_pipeline.drain.sources.search._SCAN_SHARE", 1e9)


@pytest.fixture(scope="session")
def servers() -> Iterator[LocalServers]:
    with servers_folder() as folder, LocalServers(folder, durable=False) as running:
        yield running


class Databases:
    """Migrated databases, each for one test. The next one is made while a test runs: that takes longer than most tests."""

    def __init__(self, server: RunningPostgres) -> None:
        self._server = server
        for role in (API_ROLE, DRAIN_ROLE):
            self._execute(sql.SQL("create role {} login").format(sql.Identifier(role)))
        create_database(server, _TEMPLATE)
        migrate(server.url(_TEMPLATE))
        self._maker = ThreadPoolExecutor(1, thread_name_prefix="databases")
        self._next = self._maker.submit(self._make)

    def take(self) -> str:
        """The name of a database."""
        name, self._next = self._next.result(), self._maker.submit(self._make)
        return name

    def drop(self, name: str) -> None:
        self._maker.submit(self._execute, sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))

    def close(self) -> None:
        self._maker.shutdown()

    def _make(self) -> str:
        name = f"test_{uuid.uuid4().hex}"
        copy_database(self._server, _TEMPLATE, name)
        return name

    def _execute(self, command: sql.Composed) -> None:
        with psycopg.connect(self._server.url("postgres"), autocommit=True) as connection:
            connection.execute(command)


@pytest.fixture(scope="session")
def databases(servers: LocalServers) -> Iterator[Databases]:
    with closing(Databases(servers.postgres)) as databases:
        yield databases


@pytest.fixture
def database_url(servers: LocalServers, databases: Databases) -> Iterator[str]:
    name = databases.take()
    yield servers.postgres.url(name)
    databases.drop(name)


@pytest.fixture
def redis_url(servers: LocalServers) -> str:
    # On a busy machine, forgetting what a test left takes seconds.
    with redis.Redis.from_url(servers.redis_url, socket_timeout=60) as client:
        client.flushall()
    return servers.redis_url


@pytest.fixture
def redis_client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url, decode_responses=False) as client:
        yield client


@pytest.fixture
def settings(database_url: str, redis_url: str) -> Settings:
    return load_settings(database_url=database_url, redis_url=redis_url)


@pytest.fixture
def postgres(database_url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def run(settings: Settings) -> Run:
    """Runs a command of `usage-pipeline` on the test's own servers."""
    return partial(run_command, settings)


@pytest.fixture
def timescale_url() -> Iterator[str]:
    """An empty database on the server of TIMESCALEDB_URL (a superuser's URL), which has the extension preloaded."""
    server = os.environ.get("TIMESCALEDB_URL")
    if not server:
        pytest.skip("TIMESCALEDB_URL is not set: no server with TimescaleDB to test with")
    name = f"test_{uuid.uuid4().hex}"
    parts = conninfo_to_dict(server)
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(sql.SQL("create database {} template template0").format(sql.Identifier(name)))
        password = f":{parts['password']}" if parts.get("password") else ""
        yield f"postgresql://{parts.get('user', 'postgres')}{password}@{parts['host']}:{parts.get('port', 5432)}/{name}"
        connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


# Whoever runs the tests may ignore it (nohup), and a process inherits that.
_HEEDS_SIGHUP = "import signal\nsignal.signal(signal.SIGHUP, signal.SIG_DFL)\n"


class Launcher:
    """A process with a folder; what it prints can be waited for."""

    def __init__(self, code: str, **environment: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _HEEDS_SIGHUP + code],
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._output: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self._output.extend(self.process.stdout)

    @property
    def output(self) -> str:
        return "".join(self._output)

    def wait_until(self, condition: Callable[[], T], what: str, timeout_seconds: float = 60) -> T:
        """Until then the process must not end, nor the time."""

        def met() -> T:
            found = condition()
            assert found or self._reader.is_alive(), f"ended early:\n{self.output}"
            return found

        return wait_until(met, what, timeout_seconds, poll_seconds=0.05, log=lambda: self.output)

    def wait_for(self, pattern: str, timeout_seconds: float = 60) -> re.Match[str]:
        match = self.wait_until(lambda: re.search(pattern, self.output), f"it says {pattern!r}", timeout_seconds)
        assert match is not None
        return match

    def wait(self, timeout_seconds: float = 60) -> int:
        status = self.process.wait(timeout_seconds)
        self._reader.join(timeout_seconds)
        return status

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder for data, where nothing runs any more afterwards, even if a test failed half-way."""
    path = Path(tempfile.mkdtemp(prefix="usage-pipeline-local-")).resolve()
    path.chmod(0o755)
    yield path
    stop_left_overs(str(path))
    stop_postgres(path / "postgres")
    stop_left_over_redis(path / "redis")
    shutil.rmtree(path)


@pytest.fixture
def launch(folder: Path) -> Iterator[Callable[..., Launcher]]:
    """Start a launcher; those that still run at the end of the test are killed."""
    launchers: list[Launcher] = []

    def start(code: str, **environment: str) -> Launcher:
        launchers.append(Launcher(code, **environment))
        return launchers[-1]

    yield start
    for launcher in launchers:
        launcher.kill()


@pytest.fixture
def is_alive() -> Callable[[int], bool]:
    def check(pid: int) -> bool:
        try:
            return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    return check
