"""The real PgBouncer in front of the tests' own PostgreSQL, in any of its pool modes, with the settings that it comes with."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from usage_pipeline.local.servers.account import Account
from usage_pipeline.local.servers.ports import free_port, is_listening
from usage_pipeline.local.servers.postgres import RunningPostgres
from usage_pipeline.storage.roles.grants import API_ROLE, DRAIN_ROLE
from usage_pipeline_tests.rigs.waiting import wait_until

# What is not said is as PgBouncer has it; so is `ignore_startup_parameters`.
_SETTINGS = """[databases]
* = host={folder}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = {users}
pool_mode = {mode}
{more}
"""


@contextmanager
def pgbouncer(postgres: RunningPostgres, mode: str, more: str = "") -> Iterator[int]:
    """The port of a PgBouncer in this pool mode, until the end of the block; `more` are further lines of its settings.

    Skips the test where there is none.
    """
    program = shutil.which("pgbouncer", path="/usr/sbin:/usr/bin:/usr/local/bin")
    if program is None:
        pytest.skip("pgbouncer is not installed (Debian's package pgbouncer)")
    # It refuses to run as root, and only the server's own user reaches its socket.
    account = Account.of_servers()
    port, folder = free_port(), Path(tempfile.mkdtemp(prefix="usage-pipeline-pgbouncer-"))
    folder.chmod(0o755)
    settings, users, log = folder / "pgbouncer.ini", folder / "users.txt", folder / "log"
    account.write(users, "".join(f'"{role}" ""\n' for role in ("postgres", API_ROLE, DRAIN_ROLE)))
    account.write(
        settings, _SETTINGS.format(folder=postgres.socket_folder, port=port, users=users, mode=mode, more=more)
    )
    with log.open("wb") as output:
        process = subprocess.Popen(
            [program, str(settings)], cwd="/", stdout=output, stderr=output, **account.process_options
        )
    try:
        wait_until(lambda: is_listening(port), "PgBouncer listens", 20, log=log.read_text)
        yield port
    finally:
        process.terminate()
        process.wait(20)
        shutil.rmtree(folder)


def through(port: int, url: str) -> str:
    """The URL of the same database and user by way of a PgBouncer."""
    parts = urlsplit(url)
    return f"postgresql://{parts.username}@127.0.0.1:{port}{parts.path}"
