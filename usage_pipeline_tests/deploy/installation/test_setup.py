"""`make setup` on a machine with another Python: one line, and nothing is installed."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from usage_pipeline_tests.rigs.places import PROJECT

OTHER = """\
#!{python}
import runpy, sys
sys.version_info, sys.executable = ({major}, {minor}, 0, "final", 0), __file__
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def setup(folder: Path, python: str) -> subprocess.CompletedProcess[str]:
    (folder / "clients" / "python").mkdir(parents=True)
    (folder / "web").mkdir()
    for name in ("Makefile", "check_python.py", "pyproject.toml", "clients/python/pyproject.toml", "uv.lock"):
        shutil.copyfile(PROJECT / name, folder / name)
    command = ["make", "setup", f"PYTHON={python}"]
    return subprocess.run(
        command,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"PATH": f"{folder}:/usr/bin:/bin"},
    )


def made_up_python(folder: Path, major: int, minor: int) -> str:
    """It says that it is another version, and otherwise is the one that runs the tests."""
    path = folder / f"other{major}.{minor}"
    path.write_text(OTHER.format(python=sys.executable, major=major, minor=minor))
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(("major", "minor"), [(3, 10), (3, 15), (4, 0)])
def test_an_older_and_a_newer_python_get_one_line_that_names_the_right_ones(
    major: int, minor: int, tmp_path: Path
) -> None:
    (tmp_path / "python3.14").symlink_to("/bin/true")
    other = made_up_python(tmp_path, major, minor)
    done = setup(tmp_path, other)
    assert done.returncode != 0
    [line] = [line for line in (done.stdout + done.stderr).splitlines() if not line.startswith("make: ***")]
    assert line == (f"expected Python 3.11 to 3.14, came {major}.{minor} ({other}). Try: make setup PYTHON=python3.14")
    assert not (tmp_path / ".local").exists()


def test_no_python_at_all_gets_one_line(tmp_path: Path) -> None:
    done = setup(tmp_path, "python3.99")
    assert done.returncode != 0
    assert done.stderr.splitlines()[0] == "expected Python at python3.99, came nothing. Try: make setup PYTHON=PATH"
    assert not (tmp_path / ".local").exists()


def test_the_versions_are_said_alike_everywhere() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    classifiers = " ".join(project["classifiers"])
    minors = [int(minor) for minor in re.findall(r"Python :: 3\.(\d+)", classifiers)]
    assert project["requires-python"] == f">=3.{minors[0]},<3.{minors[-1] + 1}"
    assert minors == list(range(minors[0], minors[-1] + 1))
    readme = (PROJECT / "README.md").read_text(encoding="utf-8")
    assert f"Python 3.{minors[0]} to 3.{minors[-1]}" in readme
