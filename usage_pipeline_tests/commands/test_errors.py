"""The boundary of the command line: whatever is raised is one line and status 2, and nothing secret is in it."""

import builtins
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest
import redis
import typer
from alembic.util.exc import CommandError

from usage_pipeline.commands import errors
from usage_pipeline.settings import Settings
from usage_pipeline_tests.commands.every_command import called, every_command
from usage_pipeline_tests.rigs.commands import command_environment

RUN = [sys.executable, "-c", "from usage_pipeline.cli import main; main()"]


def raised(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    """`usage-pipeline alerts` fails with it."""

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("usage_pipeline.commands.alerts.load_settings", fail)


def all_errors(of: type[Exception] = Exception) -> Iterator[type[Exception]]:
    """Every class of errors that is loaded here: Python's, those of all libraries, and ours."""
    for error in of.__subclasses__():
        yield error
        yield from all_errors(error)


def test_every_error_that_there_is_ends_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("DATABASE_URL", "postgresql://u@127.0.0.1:1/x")
    tried = 0
    for kind in set(all_errors()) - {typer.Abort, typer.Exit}:
        error = None
        # Some classes of libraries want other arguments.
        with suppress(Exception):
            error = kind("what\nit says")
        if error is None:
            continue
        raised(error, monkeypatch)
        status, output, told = called(["alerts"], capfd)
        assert (status, output) == (2, ""), kind
        assert told.count("\n") == 1, (kind, told)
        [line] = told.splitlines()
        assert line.startswith("usage-pipeline: "), kind
        tried += 1
    assert tried > 300


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (psycopg.errors.ReadOnlySqlTransaction("cannot execute INSERT in a read-only transaction"), "name the primary"),
        (psycopg.errors.AdminShutdown("terminating connection"), "run the command again"),
        (psycopg.errors.DiskFull("could not extend file"), "PostgreSQL: could not extend file"),
        (psycopg.errors.NumericValueOutOfRange("bigint out of range"), "PostgreSQL cannot take a value: bigint"),
        (redis.exceptions.NoPermissionError("this user has no permissions"), "docs/operations.md lists the rights"),
        (redis.exceptions.ReadOnlyError("You can't write against a read only replica."), "Redis: You can't write"),
        (redis.ConnectionError("Error 111"), "Redis: Error 111"),
        (OSError(28, "No space left on device"), "the system refuses: No space left on device"),
        (PermissionError(13, "Permission denied", "/x/y"), "/x/y: Permission denied; see to the file"),
        (CommandError("Can't locate revision"), "this is a bug"),
        (KeyError("member"), "this is a bug in usage-pipeline 0.1.0: KeyError: 'member'"),
        (OverflowError("int too large"), "this is a bug in usage-pipeline 0.1.0: OverflowError: int too large"),
    ],
)
def test_each_kind_of_error_says_what_to_do(
    error: Exception,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("DATABASE_URL", "postgresql://u@127.0.0.1:1/x")
    raised(error, monkeypatch)
    status, _, told = called(["alerts"], capfd)
    assert (status, len(told.splitlines())) == (2, 1)
    assert said in told


def test_a_bug_has_its_traceback_in_one_file_without_secrets(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("DATABASE_URL", "postgresql://u:hunt%21er2@127.0.0.1:1/x")
    monkeypatch.setenv("REDIS_PASSWORD", "s3cret-of-redis")
    error = RuntimeError("no way to hunt!er2 or hunt%21er2 with s3cret-of-redis\nDETAIL: a whole row")
    error.__cause__ = ValueError("hunt!er2, too")
    raised(error, monkeypatch)
    told = called(["alerts"], capfd)[2]
    again = called(["alerts"], capfd)[2]
    [file] = tmp_path.iterdir()
    assert told == again, "the same bug has the same file"
    assert f"Please report it, with the traceback in {file}" in told
    text = file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600
    assert text.count("\nValueError: ") == text.count("\nRuntimeError: ") == 1
    assert "in fail" in text
    for secret in ("hunt", "er2", "s3cret", "whole row"):
        assert secret not in text + told


def test_a_link_that_somebody_put_where_the_traceback_goes_is_not_followed(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("DATABASE_URL", "postgresql://u@127.0.0.1:1/x")
    raised(KeyError("x"), monkeypatch)
    file = Path(called(["alerts"], capfd)[2].rpartition(" ")[2].strip())
    file.unlink()
    file.symlink_to(tmp_path / "elsewhere")
    called(["alerts"], capfd)
    assert not (tmp_path / "elsewhere").exists()
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr("tempfile.tempdir", str(tmp_path / "none"))
        told = called(["alerts"], capfd)[2]
    assert "could not be written: No such file or directory" in told


def test_ctrl_c_is_a_line_and_130(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    raised(KeyboardInterrupt(), monkeypatch)
    status, _, told = called(["alerts"], capfd)
    assert (status, told.count("\n")) == (130, 1)


def test_a_reader_that_goes_away_is_no_error(settings: Settings) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    for command in (["tokens", "list"], ["alerts", "--json"]):
        done = subprocess.run(
            [*RUN, *command],
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
            env=command_environment(settings),
            timeout=60,
        )
        assert (done.returncode, done.stderr) == (141, ""), command
    os.close(writing)


def test_a_full_disk_is_told(settings: Settings) -> None:
    with open("/dev/full", "w") as full:
        for command in (["tokens", "list"], ["alerts", "--json"]):
            done = subprocess.run(
                [*RUN, *command],
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
                env=command_environment(settings),
                timeout=60,
            )
            assert done.returncode == 2, command
            assert "No space left on device" in done.stderr
            assert done.stderr.count("\n") == 1


def test_any_name_is_printed_on_a_terminal_without_its_letters(settings: Settings) -> None:
    environment = command_environment(settings) | {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    for command, shown in (
        (["tokens", "create", "한국", "--scope=read", "--never-expires", "--json"], '"name": "\\ud55c\\uad6d"'),
        (["tokens", "list"], "\\ud55c\\uad6d"),
    ):
        done = subprocess.run([*RUN, *command], capture_output=True, text=True, env=environment, timeout=60)
        assert done.returncode == 0, done.stderr
        assert shown in done.stdout or "token_id" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nope"], "No such command 'nope'. See: usage-pipeline --help"),
        (["alerts", "--nope"], "No such option: --nope. See: usage-pipeline alerts --help"),
        (["tokens", "create"], "Missing argument 'name'. See: usage-pipeline tokens create --help"),
        (["dev", "--port", "0"], "Invalid value for '--port': expected a number from 1 to 65,535"),
        (["dev", "--port", "99999"], "'--port': expected a number from 1 to 65,535"),
        (["dev", "--api-port", "-1"], "'--api-port': expected a number from 1 to 65,535"),
        (["api", "--port", "0"], "expected a number from 1 to"),
        (["api", "--host", "nope.invalid"], "--host: expected a name or address of this machine, came 'nope.invalid'"),
        (["api", "--host", "a" * 300], "--host: expected a name or address of this machine"),
        (["api", "--host", "192.0.2.1"], "--host and --port: expected an address of this machine with a free port"),
        (["api", "--workers", "0"], "expected a number from 1 to"),
        (["demo", "--seconds", "nan"], "expected a number from 0.5 to 600"),
        (["demo", "--seconds", "1e400"], "expected a number from 0.5 to 600"),
        (["demo", "--writers", "-1"], "expected a number from 1 to 32"),
    ],
)
def test_wrong_usage_is_one_line(
    arguments: list[str], said: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    status, output, told = called(arguments, capfd)
    assert (status, output, told.count("\n")) == (2, "", 1), told
    assert said in told


def test_a_group_without_a_command_prints_its_help(capfd: pytest.CaptureFixture[str]) -> None:
    # `alerts` alone lists them.
    for group in sorted({one.words[:-1] for one in every_command()} - {("alerts",)}):
        status, output, told = called(list(group), capfd)
        assert status == 2
        assert "Usage: usage-pipeline" in output + told


def test_the_boundary_lists_no_errors_of_ours() -> None:
    """A new class of errors is explained from its first day."""
    text = Path(errors.__file__).read_text()
    named = {
        name
        for name in dir(builtins)
        if isinstance(getattr(builtins, name), type) and issubclass(getattr(builtins, name), BaseException)
    }
    assert {name for name in named if f"except {name}" in text} <= {
        "Exception",
        "OSError",
        "KeyboardInterrupt",
        "BrokenPipeError",
        "FileExistsError",
    }
    assert signal.getsignal(signal.SIGPIPE) == signal.SIG_IGN, "sockets would end the process"
