"""Every command with every odd argument, on no database, an empty, an old and a dying one: a line, and never a traceback."""

import json
import random
import sys
import uuid
from collections.abc import Iterator
from io import BytesIO, TextIOWrapper
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from usage_pipeline.local.servers.both import LocalServers
from usage_pipeline.local.servers.postgres import create_database
from usage_pipeline.settings import Settings
from usage_pipeline_tests.commands.cutting_proxy import CuttingProxy
from usage_pipeline_tests.commands.every_command import FILES, Command, called, every_command
from usage_pipeline_tests.rigs.clock import days_ago
from usage_pipeline_tests.storage.old_schema import migrate_up_to

# They serve until they are stopped; their own tests have odd ports and hosts.
SERVING = ("dev", "demo", "api")
# It asks nobody for anything.
ALONE = ("ui-password",)
COMMANDS = [one for one in every_command() if str(one) not in SERVING]
ASKING = [one for one in COMMANDS if str(one) not in ALONE]
MIGRATING = ("migrate",)
ODD = (
    *("-1", "0", "1", "99999", "99999999999999999999999999", "1e400", "nan", "=", "--", "-", "../..", "%s", "{}"),
    *("0001-01-01", "9999-12-31", "2999-01-01", "20240101", "2024-W01-1", "2026-02-30", "2026-01-01T00:00:00"),
    *("no-such", "a" * 10_000, "a\nb", "\x1b[31m", "\u202e", "한국어", "a\udcff"),
    *("folder", "binary", "nothing.csv", "missing", "binary/inside", "/dev/full"),
)


@pytest.fixture(autouse=True)
def _files_and_nothing_typed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO()))
    monkeypatch.chdir(tmp_path)
    for name, text in FILES.items():
        Path(name).write_text(text)
    Path("folder").mkdir()
    Path("binary").write_bytes(bytes(range(256)) * 20)
    Path("nothing.csv").touch()


def on(monkeypatch: pytest.MonkeyPatch, database_url: str, redis_url: str, **variables: str) -> None:
    for name, value in {"DATABASE_URL": database_url, "REDIS_URL": redis_url, **variables}.items():
        monkeypatch.setenv(name, value)


def any_call(command: Command, chance: random.Random) -> list[str]:
    """As it should be called, or with an odd value of one of its parameters."""
    if not command.parameters or chance.random() < 0.6:
        return command.call()
    return command.call(chance.choice(command.parameters), chance.choice(ODD))


def expect_a_line(call: list[str], found: tuple[int, str, str]) -> None:
    status, output, errors = found
    assert status in (0, 1, 2), (call, found)
    assert "Traceback" not in output + errors, (call, found)
    assert "this is a bug" not in errors, (call, found)
    if status == 2:
        [line] = [line for line in errors.splitlines() if line.startswith("usage-pipeline: ")]
        assert len(line) > len("usage-pipeline: ") + 10, (call, found)


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_odd_arguments_end_in_a_line(
    command: Command, settings: Settings, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    on(monkeypatch, settings.database_url.get_secret_value(), settings.redis_dsn.get_secret_value())
    # Each value meets a third of the parameters of each command, other ones than its neighbours do.
    for place, parameter in enumerate(command.parameters, start=COMMANDS.index(command)):
        for value in ODD[place % 3 :: 3]:
            call = command.call(parameter, value)
            expect_a_line(call, called(call, capfd))


@pytest.mark.parametrize("command", ASKING, ids=str)
def test_without_a_server_each_command_says_so(
    command: Command, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    on(monkeypatch, "postgresql://u:hunter2@127.0.0.1:1/usage", "redis://:hunter2@127.0.0.1:1/0")
    call = command.call()
    found = called(call, capfd)
    expect_a_line(call, found)
    assert found[0] != 0, found
    assert "hunter2" not in found[1] + found[2]


@pytest.fixture
def new_database(servers: LocalServers) -> Iterator[str]:
    name = f"new_{uuid.uuid4().hex}"
    create_database(servers.postgres, name)
    yield servers.postgres.url(name)
    with psycopg.connect(servers.postgres.url("postgres"), autocommit=True) as connection:
        connection.execute(f'drop database "{name}" with (force)')


def test_on_a_database_that_is_not_migrated_each_command_says_what_to_run(
    new_database: str, redis_url: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    on(monkeypatch, new_database, redis_url)
    for command in ASKING:
        if str(command) in MIGRATING:
            continue
        call = command.call()
        found = called(call, capfd)
        expect_a_line(call, found)
        assert found[0] != 0, (call, found)
        assert "usage-pipeline migrate" in found[1] + found[2], (call, found)


@pytest.mark.parametrize("version", ["0005", "0010", "0020", "0030"])
def test_on_an_older_schema_a_command_works_or_says_what_to_run(
    version: str, new_database: str, redis_url: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    migrate_up_to(new_database, version)
    on(monkeypatch, new_database, redis_url)
    chance, told = random.Random(version), 0
    for command in ASKING:
        if str(command) in MIGRATING:
            continue
        call = any_call(command, chance)
        found = called(call, capfd)
        expect_a_line(call, found)
        told += "usage-pipeline migrate" in found[1] + found[2]
    assert told > 3


def test_on_a_newer_schema_a_command_that_fails_says_so(
    postgres: psycopg.Connection,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    postgres.execute("update public.usage_pipeline_version set version_num = '9999'")
    postgres.execute("drop table ops.alerts cascade")
    on(monkeypatch, settings.database_url.get_secret_value(), settings.redis_dsn.get_secret_value())
    for call in (["alerts"], ["migrate"]):
        status, _, errors = called(call, capfd)
        assert status == 2
        assert "this usage-pipeline does not know" in errors
        assert "9999" in errors


@pytest.mark.parametrize("seed", range(3))
def test_a_server_that_dies_in_the_middle_is_a_line(
    seed: int,
    servers: LocalServers,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    chance = random.Random(seed)
    database = conninfo_to_dict(settings.database_url.get_secret_value())["dbname"]
    with CuttingProxy(servers.postgres) as proxy:
        on(monkeypatch, proxy.url(str(database)), settings.redis_dsn.get_secret_value())
        for command in ASKING:
            proxy.after_bytes = round(10 ** chance.uniform(1.5, 5))
            call = any_call(command, chance)
            expect_a_line(call, called(call, capfd))


@pytest.mark.parametrize(
    "call",
    [
        "dead-letters replay 4242",
        "dead-letters replay --family nope",
        "dead-letters list --source nope",
        "dead-letters show 4242",
        "dead-letters discard 4242 --reason r",
        "conflicts accept 4242 --reason r",
        "conflicts dismiss 4242 --reason r",
        "events void 0f0e1c2a-6f2b-4b7e-9d5c-3a1f5b8e7c11 --reason r",
        "counters adjust api_key nope --field total_requests --by 1 --day YESTERDAY --reason r",
        "counters adjust merchant nope --field orders --by 1 --day YESTERDAY --reason r",
        "counters accept-reset --merchant nope",
        "counters accept-restore --date YESTERDAY",
        "counters accept-correction --metric nope --reason r",
        "tokens revoke nope",
        "budgets remove nope",
        "prices show nope nope",
        "erase-user nope",
        "archive restore 2999-01-01",
        "aggregate --date 2999-01-01",
        "aggregate --from 1926-01-01 --to 2026-11-28",
        "merchants status 2999-01-01",
        "stats --date 2999-01-01",
        "recost --from 2999-01-01 --to 2999-01-01",
        "recost --from 1926-01-01 --to 2026-01-01",
        "load issues nothing.csv",
        "prices import nothing.csv",
        "events replace nothing.csv --reason r",
    ],
)
def test_no_command_succeeds_at_nothing(
    call: str, settings: Settings, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    on(monkeypatch, settings.database_url.get_secret_value(), settings.redis_dsn.get_secret_value())
    arguments = call.replace("YESTERDAY", str(days_ago(1))).split()
    found = called(arguments, capfd)
    expect_a_line(arguments, found)
    assert found[0] != 0, found
    status, output, _ = called([*arguments, "--json"], capfd)
    assert status == found[0]
    assert status == 2 or json.loads(output).get("success") is not True
