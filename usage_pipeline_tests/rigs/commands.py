"""Commands as a person or a script calls them, each a process of its own: forked from one that has loaded everything.

To start Python and import the packages takes four times as long as the fork, for each of a hundred commands.
"""

import os
import sys
from collections.abc import Callable, Mapping
from multiprocessing import get_context
from pathlib import Path
from subprocess import CompletedProcess, TimeoutExpired
from tempfile import TemporaryDirectory

from usage_pipeline.cli import main
from usage_pipeline.settings import Settings

Run = Callable[..., CompletedProcess[str]]
TIMEOUT_SECONDS = 120
_FORKS = get_context("forkserver")
_FORKS.set_forkserver_preload(
    [
        __name__,
        "usage_pipeline.drain.rounds",
        "usage_pipeline.rollups.recost",
        "usage_pipeline.rollups.dropped.run",
        "usage_pipeline.storage.migrations",
    ]
)


def run_command(settings: Settings, *arguments: object, **variables: str) -> CompletedProcess[str]:
    """Runs `usage-pipeline` with these servers; `variables` are added to its environment or replace it."""
    command = [str(argument) for argument in arguments]
    with TemporaryDirectory() as folder:
        output, errors = Path(folder, "output"), Path(folder, "errors")
        process = _FORKS.Process(
            target=_command, args=(command, command_environment(settings) | variables, output, errors)
        )
        process.start()
        process.join(TIMEOUT_SECONDS)
        if process.is_alive():
            process.kill()
            process.join()
            raise TimeoutExpired(command, TIMEOUT_SECONDS, output.read_text(), errors.read_text())
        assert process.exitcode is not None
        return CompletedProcess(command, process.exitcode, output.read_text(), errors.read_text())


def command_environment(settings: Settings) -> dict[str, str]:
    """That of a command on these servers."""
    return {
        **os.environ,
        "DATABASE_URL": settings.database_url.get_secret_value(),
        "REDIS_URL": settings.redis_dsn.get_secret_value(),
        "ARCHIVE_URL": str(settings.archive_url or ""),
        "COLUMNS": "200",
    }


def _command(command: list[str], environment: Mapping[str, str], output: Path, errors: Path) -> None:
    for path, descriptor in ((output, sys.stdout.fileno()), (errors, sys.stderr.fileno())):
        with path.open("wb") as file:
            os.dup2(file.fileno(), descriptor)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["usage-pipeline", *command]
    main()
