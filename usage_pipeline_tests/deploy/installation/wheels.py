"""Wheels of the package and of its recorder, built from what the image is made of."""

import shutil
import subprocess
import sys
from pathlib import Path

from usage_pipeline_tests.rigs.places import PROJECT

# What deploy/Dockerfile copies before it installs the package.
COPIED = (
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "dagster.yaml",
    "sql",
    "usage_pipeline",
    "clients/python",
    "web",
)


def copy_what_the_image_is_made_of(folder: Path) -> None:
    for name in COPIED:
        if (PROJECT / name).is_dir():
            shutil.copytree(PROJECT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "node_modules"))
        else:
            shutil.copyfile(PROJECT / name, folder / name)


def build_wheel(folder: Path) -> subprocess.CompletedProcess[str]:
    """Builds the package in a folder, into `built` there."""
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", "built"]
    return subprocess.run(build, cwd=folder, check=False, capture_output=True, text=True, timeout=120)
