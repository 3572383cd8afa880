"""The back-ups themselves: `pg_dump` and `pg_restore` of PostgreSQL, a snapshot of Redis, and the commands of the docs."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import psycopg

from usage_pipeline.local.servers.account import Account
from usage_pipeline.local.servers.postgres import RunningPostgres, _programs
from usage_pipeline.local.servers.redis import redis_executable
from usage_pipeline_tests.rigs.places import DOCS
from usage_pipeline_tests.torture.servers import RedisServer

_SECONDS = 300


class NoDump(Exception):
    """No `pg_dump` that is as new as the server. A COPY of our own would show nothing about a back-up that people have."""


def dump_programs(server: RunningPostgres) -> Path:
    """The folder of a `pg_dump` and a `pg_restore` that are as new as the server. Raises NoDump."""
    with psycopg.connect(server.url("postgres")) as connection:
        wanted = connection.info.server_version // 10_000
    on_path = shutil.which("pg_dump")
    folders = [_programs(Account.of_servers()), *([Path(on_path).parent] if on_path else [])]
    for folder in folders:
        if (folder / "pg_dump").exists() and (folder / "pg_restore").exists():
            said = subprocess.run([folder / "pg_dump", "--version"], capture_output=True, text=True, timeout=_SECONDS)
            if (version := re.search(r"(\d+)", said.stdout)) and int(version[1]) >= wanted:
                return folder
    raise NoDump(f"no pg_dump of version {wanted} or newer in {', '.join(map(str, folders))}")


def dump(programs: Path, url: str, file: Path) -> None:
    _run([programs / "pg_dump", "--format=custom", f"--file={file}", f"--dbname={url}"])


def restore_dump(programs: Path, url: str, file: Path) -> None:
    """Into an empty database."""
    _run([programs / "pg_restore", "--exit-on-error", f"--dbname={url}", file])


def snapshot(server: RedisServer, file: Path) -> None:
    with server.client() as client:
        client.save()
    shutil.copyfile(server.folder / "dump.rdb", file)


def start_from_snapshot(server: RedisServer, file: Path) -> None:
    """As docs/operations.md says: with its append-only file off, since Redis would begin an empty one and read no snapshot."""
    server.folder.mkdir(parents=True)
    shutil.copyfile(file, server.folder / "dump.rdb")
    server.start("appendonly no")
    with server.client() as client:
        client.config_set("appendonly", "yes")


def delete_what_is_added_up(server: RedisServer) -> None:
    """The commands of docs/operations.md, read from there."""
    page = (DOCS / "operations.md").read_text(encoding="utf-8")
    [script] = re.findall(r"^ *(for pattern in 'apikey.*?done)$", page, re.MULTILINE | re.DOTALL)
    folder = redis_executable().parent
    _run(
        ["bash", "-ec", script.replace("redis-cli", f"redis-cli -p {server.port}")],
        PATH=f"{folder}:{os.environ['PATH']}",
    )


def _run(command: list[str | Path], **variables: str) -> None:
    environment = {**os.environ, **variables}
    done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, env=environment)
    assert done.returncode == 0, (command, done.stderr)
