"""Passwords that change while everything runs: a command or a file gives the current one, and nobody ever shows it."""

import logging
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil
import psycopg
import pytest
import redis
from psycopg import sql

from usage_pipeline.drain.rounds import DrainImpossible, drain_once
from usage_pipeline.history.storage import connect_storage
from usage_pipeline.local.servers.account import Account
from usage_pipeline.local.servers.postgres import RunningPostgres, create_database, start_postgres, stop_postgres
from usage_pipeline.settings import Settings, SettingsError, load_settings
from usage_pipeline.storage.connecting import passwords as module
from usage_pipeline.storage.connecting.database import Database
from usage_pipeline.storage.migrations import migrate
from usage_pipeline.storage.postgres import PostgresUnavailable, connect
from usage_pipeline_tests.api.api_process import ApiProcess, api_process
from usage_pipeline_tests.conftest import Launcher
from usage_pipeline_tests.rigs.commands import command_environment, run_command
from usage_pipeline_tests.rigs.events import event
from usage_pipeline_tests.rigs.places import servers_folder
from usage_pipeline_tests.rigs.service import EVENTS_PATH, new_token
from usage_pipeline_tests.rigs.waiting import wait_until

ROLE = "expiring"
DRAIN = """
import sys
sys.argv = ["usage-pipeline", "drain", "--watch"]
from usage_pipeline.cli import main
main()
"""


@dataclass(frozen=True)
class Server:
    """A server that asks ROLE for its password."""

    postgres: RunningPostgres
    administrator: psycopg.Connection

    def change(self, password: str) -> None:
        """Gives ROLE this password, and ends its sessions."""
        alter = sql.SQL("alter role {} password {}").format(sql.Identifier(ROLE), sql.Literal(password))
        self.administrator.execute(alter)
        self.administrator.execute(
            "select pg_terminate_backend(pid, 10000) from pg_stat_activity where usename = %s", (ROLE,)
        )


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with servers_folder() as folder:
        try:
            running = start_postgres(folder / "postgres", durable=False)
            rules = running.data_folder / "pg_hba.conf"
            Account.of_servers().write(rules, f"local all {ROLE} scram-sha-256\n{rules.read_text()}")
            with psycopg.connect(running.url("postgres"), autocommit=True) as administrator:
                administrator.execute("select pg_reload_conf()")
                administrator.execute(f"create role {ROLE} login password 'not yet'")
                create_database(running, "usage")
                administrator.execute(f"alter database usage owner to {ROLE}")
                yield Server(running, administrator)
        finally:
            stop_postgres(folder / "postgres")


@pytest.fixture
def url(server: Server) -> str:
    return server.postgres.url("usage").replace("//postgres:@", f"//{ROLE}@")


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """The file that always has the current password."""
    return tmp_path / "password"


@pytest.fixture(params=["command", "file"])
def settings(request: pytest.FixtureRequest, url: str, kept: Path, redis_url: str) -> Settings:
    cat = shlex.join([sys.executable, "-c", "import sys; print(open(sys.argv[1]).read())", str(kept)])
    source = {"database_password_command": cat} if request.param == "command" else {"database_password_file": str(kept)}
    return load_settings(database_url=url, redis_url=redis_url, **source)


def variables(settings: Settings) -> dict[str, str]:
    command = settings.database_password_command
    given = {
        "DATABASE_PASSWORD_COMMAND": command.get_secret_value() if command else "",
        "DATABASE_PASSWORD_FILE": settings.database_password_file or "",
        "METRICS_SYNC_INTERVAL_MS": "100",
    }
    return {name: value for name, value in given.items() if value}


@pytest.fixture
def change(server: Server, kept: Path) -> Callable[[str], None]:
    def both(password: str) -> None:
        kept.write_text(f"{password}\n")
        server.change(password)

    return both


def test_a_running_service_and_a_running_drain_go_on_with_the_next_password(
    settings: Settings,
    server: Server,
    change: Callable[[str], None],
    redis_client: redis.Redis,
    launch: Callable[..., Launcher],
    tmp_path: Path,
) -> None:
    change("first-secret")
    done = run_command(settings, "migrate", **variables(settings))
    assert done.returncode == 0, done.stderr
    drain = launch(DRAIN, **(command_environment(settings) | variables(settings)))
    with (
        psycopg.connect(server.postgres.url("usage"), autocommit=True) as postgres,
        api_process(settings, tmp_path, **variables(settings)) as api,
    ):
        token = new_token(postgres, "ingest", "read", name=str(tmp_path))
        for password in ("first-secret", "second-secret", "third-secret"):
            change(password)
            key = f"{tmp_path.name}-{password}"
            redis_client.hset(f"apikey:{key}:metrics", "total_requests", 3)
            drain.wait_until(
                lambda key=key: (
                    postgres.execute(  # type: ignore[misc]
                        "select total_requests from usage.api_keys where api_key_id = %s", (key,)
                    ).fetchall()
                    == [(3,)]
                ),
                "the drain stores the counter",
            )
            wait_until(lambda: ingested(api, token) == 200, "the service stores", log=api.log.read_text)
            assert httpx.get(f"{api.url}/healthz", timeout=30, trust_env=False).json()["database"] == "up"
        said = drain.output + api.log.read_text()
    assert "secret" not in said.replace(str(tmp_path), "")


def ingested(api: ApiProcess, token: str) -> int:
    headers = {"Authorization": f"Bearer {token}"}
    return httpx.post(
        f"{api.url}{EVENTS_PATH}", json=[event()], headers=headers, timeout=60, trust_env=False
    ).status_code


def test_a_password_that_nobody_changed_is_not_asked_for_again(
    url: str, change: Callable[[str], None], kept: Path, tmp_path: Path
) -> None:
    asked = tmp_path / "asked"
    change("secret-1")
    command = f"sh -c 'echo asked >>{asked}; cat {kept}'"
    settings = load_settings(database_url=url, database_password_command=command)
    for _ in range(3):
        connect(settings).close()
    assert asked.read_text().split() == ["asked"]
    change("secret-2")
    wait_until(lambda: is_in(settings), "the next password is asked for")
    assert len(asked.read_text().split()) >= 2


def is_in(settings: Settings) -> bool:
    try:
        connect(settings).close()
    except PostgresUnavailable:
        return False
    return True


def test_it_takes_the_place_of_a_password_in_the_url(url: str, change: Callable[[str], None], kept: Path) -> None:
    change("new-secret")
    with_old = url.replace(f"//{ROLE}@", f"//{ROLE}:old@")
    assert is_in(load_settings(database_url=with_old, database_password_file=str(kept)))


def test_a_wrong_password_is_an_error_in_one_line_without_it(
    url: str, server: Server, kept: Path, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server.change("right")
    kept.write_text("s3cret-and-wrong")
    settings = load_settings(database_url=url, redis_url=redis_url, database_password_file=str(kept))
    with pytest.raises(DrainImpossible, match=r"^PostgreSQL does not answer: .*nothing is claimed") as problem:
        drain_once(settings)
    assert "s3cret" not in str(problem.value) + caplog.text


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("false", "expected the password, came none, and exit status 1; run it in a shell as the same user to see why"),
        ("true", "expected one line of text, the password, came another output"),
        ("printf 's3cret-1\\ns3cret-2'", "expected one line of text, the password, came another output"),
        ("sh -c 'cat /dev/urandom'", "expected the password within"),
        ("/no/such/program s3cret", "expected a program that can be run, came: No such file or directory"),
        ("sh -c 'echo s3cret >&2; exit 7'", "exit status 7"),
    ],
)
def test_a_command_that_gives_no_password_is_an_error_in_one_line(
    command: str, said: str, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_COMMAND_SECONDS", 1.0)
    with pytest.raises(PostgresUnavailable) as problem:
        migrate(Database.of_usage(load_settings(database_url=url, database_password_command=command)))
    assert said in str(problem.value)
    assert str(problem.value).startswith("PostgreSQL: DATABASE_PASSWORD_COMMAND: ")
    assert "\n" not in str(problem.value)
    assert "s3cret" not in str(problem.value)


def test_a_command_that_hangs_is_ended_with_all_that_it_started(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_COMMAND_SECONDS", 1.0)
    started = tmp_path / "started"
    command = f"sh -c 'sleep 600 & echo $! >{started}; wait'"
    with pytest.raises(PostgresUnavailable, match="expected the password within 1 s"):
        connect(load_settings(database_url=url, database_password_command=command))
    pid = int(started.read_text())
    wait_until(lambda: not is_running(pid), "what the command started has ended")


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_file_that_is_not_there_is_an_error_in_one_line(url: str, tmp_path: Path) -> None:
    settings = load_settings(database_url=url, database_password_file=str(tmp_path / "none"))
    with pytest.raises(
        PostgresUnavailable, match=r"^PostgreSQL: DATABASE_PASSWORD_FILE: expected a file .* No such file"
    ):
        connect(settings)


def test_a_source_is_one_or_the_other_and_may_be_empty() -> None:
    nothing = load_settings(database_password_command="", database_password_file=" ")
    assert (nothing.database_password_command, nothing.database_password_file) == (None, None)
    with pytest.raises(
        SettingsError, match="DATABASE_PASSWORD_FILE: expected this or DATABASE_PASSWORD_COMMAND, came both"
    ):
        load_settings(database_password_command="cat x", database_password_file="x")
    with pytest.raises(SettingsError, match="DATABASE_PASSWORD_COMMAND: expected a program") as problem:
        load_settings(database_password_command="cat 's3cret")
    assert "s3cret" not in str(problem.value)
    assert "s3cret" not in repr(load_settings(database_password_command="echo s3cret"))


def test_dagsters_storage_takes_it_for_the_same_user_only(
    url: str, server: Server, change: Callable[[str], None], kept: Path
) -> None:
    change("new-secret")
    file = str(kept)
    same = load_settings(database_url=url, dagster_postgres_url=url, database_password_file=file)
    connect_storage(same).close()
    own = urlsplit(url)._replace(netloc=f"{ROLE}:its-own@").geturl()
    for other in (own, url.replace(ROLE, "postgres")):
        storage = load_settings(database_url=url, dagster_postgres_url=other, database_password_file=file)
        kept.unlink(missing_ok=True)
        if other == own:
            with pytest.raises(PostgresUnavailable, match="password authentication failed"):
                connect_storage(storage)
        else:
            with closing(connect_storage(storage)) as connection:
                assert connection.info.user == "postgres"
