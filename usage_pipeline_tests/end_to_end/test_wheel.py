"""`pip install 'usage-pipeline[local]'`, then `demo` and `dev` in a folder that has nothing of this checkout."""

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from shutil import rmtree
from typing import Any

import httpx
import pytest

from usage_pipeline.local.processes.children import stop_left_overs
from usage_pipeline.local.servers.ports import free_port
from usage_pipeline.local.servers.postgres import stop_postgres
from usage_pipeline.local.servers.redis import stop_left_over_redis
from usage_pipeline_tests.deploy.installation.wheels import build_wheel, copy_what_the_image_is_made_of
from usage_pipeline_tests.rigs.places import PROJECT

UV = PROJECT / ".local" / "uv" / "bin" / "uv"
# Of libraries, and what a folder of somebody who works with data may well have.
NAMES = ("queue.py", "redis.py", "typing.py")
RUN = """
import os, sys
os.chdir({folder!r})
os.execv({command!r}, ["usage-pipeline", *{arguments!r}])
"""


def run(*command: str | Path, **environment: str) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, check=False, cwd=PROJECT, env=os.environ | environment
    )
    assert done.returncode == 0, done.stderr[-4_000:]
    return done.stdout


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The installed command, in an environment with the wheels' dependencies and nothing else."""
    folder = tmp_path_factory.mktemp("installation")
    (folder / "source").mkdir()
    copy_what_the_image_is_made_of(folder / "source")
    for source in (folder / "source", folder / "source" / "clients" / "python"):
        built = build_wheel(source)
        assert built.returncode == 0, built.stderr
    wheels = [str(path) for path in (folder / "source").rglob("built/*.whl")]
    assert len(wheels) == 2
    environment = folder / "environment"
    # In the locked versions, which `make setup` has left in the cache of uv: no network is needed.
    locked = ("sync", "--quiet", "--frozen", "--no-default-groups", "--extra", "local", "--no-install-workspace")
    run(UV, *locked, "--python", sys.executable, UV_PROJECT_ENVIRONMENT=str(environment), UV_PYTHON_DOWNLOADS="never")
    places = [argument for wheel in wheels for argument in ("--find-links", str(Path(wheel).parent))]
    python = environment / "bin" / "python"
    # Refused if the wheels asked for anything that is not there by now.
    run(UV, "pip", "install", "--quiet", "--no-index", *places, "--python", python, "usage-pipeline[local]")
    return environment / "bin" / "usage-pipeline"


@pytest.fixture
def empty() -> Iterator[Path]:
    """A folder with blanks in its name, where nothing runs any more afterwards."""
    path = Path(tempfile.mkdtemp(prefix="an empty folder ")).resolve()
    path.chmod(0o755)
    for name in NAMES:
        (path / name).write_text("raise RuntimeError('a file of the working directory was imported')\n")
    yield path
    data = path / ".local"
    stop_left_overs(str(data))
    stop_postgres(data / "postgres")
    stop_left_over_redis(data / "redis")
    rmtree(path)


@pytest.mark.skipif(not UV.exists(), reason="make setup installs uv")
def test_demo_and_then_dev_need_nothing_but_the_wheel(command: Path, empty: Path, launch: Callable[..., Any]) -> None:
    def started(*arguments: str) -> Any:
        return launch(RUN.format(folder=str(empty), command=str(command), arguments=arguments))

    demo = started("demo", "--seconds", "1")
    assert demo.wait(600) == 0, demo.output
    assert "nothing lost, nothing counted twice" in demo.output

    dev = started("dev", "--worker", "--port", str(free_port()), "--api-port", str(free_port()))
    url = dev.wait_for(r"Dagster is at (\S+)", 180)[1]
    api = dev.wait_for(r"HTTP is at (\S+)", 60)[1]
    line = dev.wait_for(r"paste this line first:\n(.+)\n")[1]
    dev.wait_for("Ctrl-C stops everything")
    assert "do not load" not in dev.output
    assert httpx.get(url, timeout=60).status_code == 200
    assert "<title>" in httpx.get(api, headers={"Accept": "text/html"}, timeout=60).text, "the page is in the wheel"
    done = subprocess.run(
        ["sh", "-c", f"{line}\ncommand -v usage-pipeline\nusage-pipeline tokens list --json"],
        env={"PATH": "/usr/bin:/bin"},
        cwd=tempfile.gettempdir(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(command))
    assert re.search(r'"name":\s*"demo"', done.stdout)
    dev.process.send_signal(signal.SIGINT)
    assert dev.wait(120) == 0, dev.output
    assert dev.output.splitlines()[-1] == "Stopped."
    assert {path.name for path in empty.iterdir()} == {".local", *NAMES}
