"""The embedded servers: what stays, what goes, and who may have the folder."""

import os
import re
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
import redis

from usage_pipeline.local.servers.both import AlreadyRunningError, LocalServers
from usage_pipeline.local.servers.postgres import RunningPostgres, start_postgres, stop_postgres
from usage_pipeline.local.servers.redis import start_redis, stop_redis
from usage_pipeline_tests.rigs.waiting import wait_until

LAUNCHER = """
from pathlib import Path
from usage_pipeline.local.servers.both import LocalServers
with LocalServers(Path({folder!r})) as servers:
    print("pids", servers.postgres.pid, servers.redis.pid, servers.database_url, servers.redis_url, flush=True)
    input()
"""


def _write(database_url: str, redis_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("create table kept as select 42 as answer")
    with redis.Redis.from_url(redis_url) as client:
        client.set("answer", 42)


def _assert_kept(servers: LocalServers) -> None:
    with psycopg.connect(servers.database_url) as connection:
        assert connection.execute("select answer from kept").fetchone() == (42,)
    with redis.Redis.from_url(servers.redis_url) as client:
        assert client.get("answer") == b"42"


def test_data_and_port_survive_a_stop_and_a_start(folder: Path, is_alive: Callable[[int], bool]) -> None:
    with LocalServers(folder) as servers:
        _write(servers.database_url, servers.redis_url)
        pids = [servers.postgres.pid, servers.redis.pid]
        port = servers.redis.port
    assert not any(is_alive(pid) for pid in pids)
    with LocalServers(folder) as servers:
        _assert_kept(servers)
        assert servers.redis.port == port


def test_a_second_launcher_is_refused_and_leaves_the_first_alone(folder: Path, launch: Callable[..., Any]) -> None:
    first = launch(LAUNCHER.format(folder=str(folder)))
    database_url = first.wait_for(r"pids \d+ \d+ (\S+)")[1]
    with pytest.raises(AlreadyRunningError, match=f"in use by process {first.process.pid}"), LocalServers(folder):
        pass
    with psycopg.connect(database_url) as connection:
        assert connection.execute("select 1").fetchone() == (1,)
    first.process.communicate("\n", timeout=60)
    assert first.wait() == 0
    with LocalServers(folder) as servers:
        assert servers.redis_url


def test_a_start_after_kill_9_replaces_both_servers_and_keeps_the_data(
    folder: Path, launch: Callable[..., Any], is_alive: Callable[[int], bool]
) -> None:
    first = launch(LAUNCHER.format(folder=str(folder)))
    postgres_pid, redis_pid, database_url, redis_url = first.wait_for(r"pids (\d+) (\d+) (\S+) (\S+)").groups()
    _write(database_url, redis_url)
    first.kill()
    left_over = [int(postgres_pid), int(redis_pid)]
    assert all(is_alive(pid) for pid in left_over)
    with LocalServers(folder) as servers:
        assert not any(is_alive(pid) for pid in left_over)
        _assert_kept(servers)


def test_a_stranger_with_the_number_in_postmaster_pid_is_no_obstacle_and_lives(
    folder: Path, launch: Callable[..., Any]
) -> None:
    with LocalServers(folder, redis=False):
        lines = (folder / "postgres" / "postmaster.pid").read_text().splitlines()
    stranger = launch("input()")
    (folder / "postgres" / "postmaster.pid").write_text("\n".join([str(stranger.process.pid), *lines[1:]]) + "\n")
    with LocalServers(folder, redis=False) as servers, psycopg.connect(servers.database_url) as connection:
        assert connection.execute("select 1").fetchone() == (1,)
    assert stranger.process.poll() is None


def test_a_stranger_with_the_number_in_the_lock_of_the_socket_is_no_obstacle_and_lives(folder: Path) -> None:
    with LocalServers(folder, redis=False) as servers:
        lock = servers.postgres.socket_folder / ".s.PGSQL.5432.lock"
        lines = lock.read_text().splitlines()
        owner = (folder / "postgres").owner()
    # Of the same user: PostgreSQL ignores processes that it may not signal.
    with subprocess.Popen(["sleep", "600"], user=owner if os.geteuid() == 0 else None) as stranger:
        try:
            lock.write_text("\n".join([str(stranger.pid), *lines[1:]]) + "\n")
            with LocalServers(folder, redis=False) as servers, psycopg.connect(servers.database_url) as connection:
                assert connection.execute("select 1").fetchone() == (1,)
            assert stranger.poll() is None
        finally:
            stranger.kill()


def test_backends_that_outlive_a_killed_postmaster_are_no_obstacle(folder: Path) -> None:
    with LocalServers(folder, redis=False) as servers:
        # A backend that computes notices nothing until it looks up, in minutes.
        connection = psycopg.connect(servers.database_url, autocommit=True)
        busy = psutil.Process(connection.info.backend_pid)
        worker = threading.Thread(target=compute_until_killed, args=(connection,))
        worker.start()
        wait_until(lambda: busy.cpu_times().user > 0.1, "the backend computes")
        psutil.Process(servers.postgres.pid).kill()
        assert busy.is_running()
        # As a launcher that is killed with its postmaster.
        with start_on(folder / "postgres") as again:
            assert not busy.is_running() or busy.status() == psutil.STATUS_ZOMBIE
            with psycopg.connect(again.url("usage")) as other:
                assert other.execute("select 1").fetchone() == (1,)
        worker.join()


def compute_until_killed(connection: psycopg.Connection) -> None:
    with suppress(psycopg.OperationalError):
        connection.execute("select count(*) from generate_series(1, 1000000000000)")


@contextmanager
def start_on(data_folder: Path) -> Iterator[RunningPostgres]:
    server = start_postgres(data_folder)
    try:
        yield server
    finally:
        stop_postgres(data_folder)


def test_an_interrupted_initdb_is_made_again(folder: Path) -> None:
    unfinished = folder / "postgres.unfinished"
    unfinished.mkdir()
    (unfinished / "PG_VERSION").write_text("18\n")
    with LocalServers(folder, redis=False) as servers, psycopg.connect(servers.database_url) as connection:
        assert connection.execute("select 1").fetchone() == (1,)
    assert not unfinished.exists()


@pytest.mark.parametrize("name", ["x" * 120, "with a space, and a comma"])
def test_a_path_that_no_socket_can_have_works(folder: Path, name: str) -> None:
    with LocalServers(folder / name) as servers:
        _write(servers.database_url, servers.redis_url)
        _assert_kept(servers)


def test_a_taken_redis_port_is_replaced_by_another(folder: Path) -> None:
    first = start_redis(folder / "redis")
    stop_redis(first)
    with socket.create_server(("127.0.0.1", first.port)):
        second = start_redis(folder / "redis")
        try:
            assert second.port != first.port
        finally:
            stop_redis(second)


def test_redis_is_as_durable_as_the_claim_barrier_expects(servers: LocalServers) -> None:
    with redis.Redis.from_url(servers.redis_url, decode_responses=True) as client:
        expected = {"appendonly": "yes", "appendfsync": "always", "save": "", "maxmemory-policy": "noeviction"}
        assert {name: client.config_get(name)[name] for name in expected} == expected
        assert re.fullmatch(r"127\.0\.0\.1", client.config_get("bind")["bind"])


def test_dagster_url_names_the_driver_that_its_event_log_needs(servers: LocalServers) -> None:
    assert servers.dagster_postgres_url.startswith("postgresql+psycopg2://")
    with psycopg.connect(servers.dagster_postgres_url.replace("+psycopg2", "")) as connection:
        assert connection.execute("select current_database()").fetchone() == ("dagster",)
