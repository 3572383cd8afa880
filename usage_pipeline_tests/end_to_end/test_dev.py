"""`usage-pipeline dev` as a user meets it: real processes, signals, and the UI over HTTP."""

import re
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg
import pytest

from usage_pipeline.local.processes.children import MARK
from usage_pipeline.local.processes.dagster import for_dagster
from usage_pipeline.local.servers.both import LocalServers
from usage_pipeline.local.servers.ports import free_port
from usage_pipeline_tests.rigs.clock import days_ago

DEFINITIONS = """
import dagster as dg

@dg.asset
def one() -> int:
    return 1

defs = dg.Definitions(assets=[one])
"""
DEV = """
import sys
from pathlib import Path
from usage_pipeline.local.dev import run_dev
sys.exit(run_dev(
    folder=Path({folder!r}), module={module!r}, port={port}, api_port={api_port}, read_only={read_only}, worker={worker}
))
"""
LAUNCH = """mutation { launchRun(executionParams: { selector: { repositoryLocationName: "usage_pipeline",
    repositoryName: "__repository__", jobName: "__ASSET_JOB", assetSelection: [{ path: ["one"] }] } }) { __typename } }"""
DAEMON_IS_UP = "Instance is configured with the following daemons"
LOCATIONS = """{ workspaceOrError { ... on Workspace { locationEntries {
    name locationOrLoadError { __typename ... on RepositoryLocation { repositories { assetNodes { id } } } } } } } }"""


@pytest.fixture
def start_dev(folder: Path, tmp_path: Path, launch: Callable[..., Any]) -> Callable[..., Any]:
    modules = tmp_path / "modules"
    modules.mkdir()
    (modules / "tiny_definitions.py").write_text(DEFINITIONS)

    def start(
        *,
        port: int | None = None,
        module: str = "tiny_definitions",
        read_only: bool = False,
        worker: bool = False,
        **environment: str,
    ) -> Any:
        ports = {"port": port or free_port(), "api_port": free_port()}
        code = DEV.format(folder=str(folder), module=module, read_only=read_only, worker=worker, **ports)
        return launch(code, PYTHONPATH=str(modules), **environment)

    return start


def _children(folder: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == str(folder) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            pass
    return found


def ask(url: str, query: str) -> Any:
    return httpx.post(f"{url}/graphql", json={"query": query}, timeout=60).raise_for_status().json()["data"]


def assets_of(url: str) -> int:
    (location,) = ask(url, LOCATIONS)["workspaceOrError"]["locationEntries"]
    assert location["name"] == "usage_pipeline"
    return len(location["locationOrLoadError"]["repositories"][0]["assetNodes"])


def launched(url: str) -> str:
    return str(ask(url, LAUNCH)["launchRun"]["__typename"])


def assert_nobody_else_reaches_the_code_server(folder: Path) -> None:
    """It has no login, and stops when somebody asks it to: no port, and a socket that only its user may come to."""
    servers = [one for one in _children(folder) if {"code-server", "grpc"} & set(one.cmdline())]
    assert servers
    listening = [one.laddr for server in servers for one in server.net_connections("inet") if one.status == "LISTEN"]
    assert listening == []
    [path] = (folder / "dagster" / "code-server").iterdir()
    assert path.is_socket()
    assert path.parent.stat().st_mode & 0o077 == 0


def asked_in_another_terminal(line: str, command: str) -> str:
    """What a command says in a shell with nothing but the pasted line, in another folder."""
    done = subprocess.run(
        ["bash", "-c", f"{line}\n{command}"],
        env={"PATH": "/usr/bin:/bin"},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_ui_answers_then_ctrl_c_stops_everything_and_a_killed_dev_is_cleaned_up(
    folder: Path, start_dev: Callable[..., Any]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        first = start_dev(port=port)
        url = first.wait_for(r"Dagster is at (\S+)")[1]
        assert f"Port {port} is taken" in first.output
    assert assets_of(url) == 1
    assert launched(url) == "LaunchRunSuccess"
    assert_nobody_else_reaches_the_code_server(folder)
    assert httpx.get(f"{url}/graphql", params={"query": LAUNCH}).status_code == 405, "the guard stands before it"

    first.kill()
    left_over = _children(folder)
    assert len(left_over) >= 4

    second = start_dev(read_only=True)
    url = second.wait_for(r"Dagster is at (\S+) \(read-only\)")[1]
    assert "earlier start had left running" in second.output
    assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in left_over)
    assert assets_of(url) == 1
    assert launched(url) == "UnauthorizedError"
    api = second.wait_for(r"HTTP is at (\S+)")[1]
    assert httpx.get(f"{api}/healthz").json()["status"] == "ok"
    line = second.wait_for(r"paste this line first:\n(.+)\n")[1]
    asked = "import os, psycopg; print(psycopg.connect(os.environ['DATABASE_URL']).info.dbname)"
    assert asked_in_another_terminal(line, f'python -c "{asked}"') == "usage"
    assert f"USAGE_START_DATE={days_ago(180)}" in line, "where events are taken from, since nothing is stored"
    starts = [process.environ().get("USAGE_START_DATE") for process in _children(folder)]
    assert set(starts) == {str(days_ago(180))}
    second.process.send_signal(signal.SIGINT)
    assert second.wait() == 0, second.output
    assert "Traceback" not in second.output
    assert _children(folder) == []
    assert not (folder / "postgres" / "postmaster.pid").exists()


def test_a_child_that_ends_by_itself_is_reported_and_the_rest_is_stopped(
    folder: Path, servers: LocalServers, database_url: str, start_dev: Callable[..., Any]
) -> None:
    urls = {
        "DATABASE_URL": database_url,
        "REDIS_URL": servers.redis_url,
        "DAGSTER_POSTGRES_URL": servers.postgres.url("dagster"),
    }
    dev = start_dev(**urls)
    dev.wait_for("Dagster is at")
    assert not (folder / "postgres").exists(), "servers that are named are used instead of embedded ones"
    assert not (folder / "redis").exists()
    line = dev.wait_for(r"paste this line first:\n(.+)\n")[1]
    assert "LANDING_URL=" in line
    assert (
        "Then set there as here, since they may hold passwords: DAGSTER_POSTGRES_URL, DATABASE_URL, REDIS_URL"
        in dev.output
    )
    assert not set(urls) & set(re.findall(r"(\w+)=", line)), "what was set may hold a password"
    daemon = next(process for process in _children(folder) if "dagster-daemon" in process.cmdline())
    log = folder / "logs" / "daemon.log"
    dev.wait_until(lambda: DAEMON_IS_UP in log.read_text(), "the daemon is up")
    daemon.kill()
    assert dev.wait() == 1
    assert "daemon ended by itself with status -9" in dev.output
    assert DAEMON_IS_UP in dev.output, "the end of its log"
    assert _children(folder) == []
    with psycopg.connect(database_url) as connection:
        assert connection.execute("select 1").fetchone() == (1,), "servers that are not ours are left alone"


def test_a_redis_that_is_named_and_does_not_answer_is_told_and_nothing_is_left(
    folder: Path, start_dev: Callable[..., Any]
) -> None:
    """The line that `dev` prints for a second terminal names one that ends with this `dev`."""
    away = f"redis://127.0.0.1:{free_port()}/0"
    dev = start_dev(REDIS_URL=away)
    assert dev.wait() == 1
    [line] = re.findall(r"RedisUnavailable: (.+)", dev.output)
    assert line.startswith("Redis does not answer")
    assert line.endswith("; without REDIS_URL and REDIS_HOST, `dev` starts a Redis of its own")
    assert _children(folder) == []


def test_with_a_worker_counters_arrive_without_any_sensor_and_ctrl_c_lets_it_finish(
    folder: Path, start_dev: Callable[..., Any]
) -> None:
    dev = start_dev(worker=True, USAGE_TIMEZONE="Europe/Vienna")
    log = Path(dev.wait_for(r"A worker drains all the time; its log is (.+)\n")[1])
    line = dev.wait_for(r"paste this line first:\n(.+)\n")[1]
    write = (
        "import os, redis; redis.Redis.from_url(os.environ['REDIS_URL']).hset('apikey:me:metrics', 'total_requests', 3)"
    )
    asked_in_another_terminal(line, f'python -c "{write}"')
    stored = "import os, psycopg; print(*psycopg.connect(os.environ['DATABASE_URL']).execute('{0}').fetchall())"
    stored = stored.format("select api_key_id, total_requests from usage.api_keys")
    dev.wait_until(
        lambda: asked_in_another_terminal(line, f'python -c "{stored}"') == "('me', 3)", "the counter is stored"
    )
    assert "USAGE_TIMEZONE=Europe/Vienna" in line, "commands without it would be refused"
    dev.process.send_signal(signal.SIGINT)
    assert dev.wait() == 0, dev.output
    assert "drain: stopped" in log.read_text()
    assert _children(folder) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_in_the_middle_of_the_start_leaves_nothing(
    folder: Path, start_dev: Callable[..., Any], number: signal.Signals
) -> None:
    dev = start_dev()
    code_server_log = folder / "logs" / "code-server.log"
    dev.wait_until(code_server_log.exists, "the code server has a log")
    dev.process.send_signal(number)
    assert dev.wait() == 0, dev.output
    assert _children(folder) == []
    assert not (folder / "postgres" / "postmaster.pid").exists()


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://u:p@h/d?sslmode=require", "postgresql+psycopg2://u:p@h/d?sslmode=require"),
        ("postgres://h/d", "postgresql+psycopg2://h/d"),
        ("postgresql+psycopg2://h/d", "postgresql+psycopg2://h/d"),
    ],
)
def test_dagster_storage_gets_a_driver(url: str, expected: str) -> None:
    assert for_dagster(url) == expected
