"""What deploy/Dockerfile begins with, made without a registry: Debian with its Python by debootstrap, and uv from its wheel."""

import re
import shutil
import subprocess
from pathlib import Path

from usage_pipeline_tests.deploy.image.engine import Engine
from usage_pipeline_tests.rigs.deployment_files import DEPLOY
from usage_pipeline_tests.rigs.places import PROJECT

# What Python's own image has of these: certificates of authorities, Python, and what makes virtual environments.
_PACKAGES = "ca-certificates,python3,python3-venv"
_AUTHORITIES = "/etc/ssl/certs/ca-certificates.crt"
_OF_THIS_NETWORK = Path("/usr/local/share/ca-certificates")


def make_bases(engine: Engine, folder: Path) -> None:
    """The images that the Dockerfile names, under these names."""
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    names = dict.fromkeys(re.findall(r"^FROM (\S+)", text, re.MULTILINE))
    [uv] = [name for name in names if "/uv:" in name]
    [python] = [name for name in names if name.startswith("python:")]
    assert len(names) == 2, f"expected images of uv and of Python, came {', '.join(names)}"
    if not engine.has_image(uv):
        _make_uv(engine, folder / "uv", uv)
    if not engine.has_image(f"docker.io/library/{python}"):
        _make_python(engine, folder / "debian", f"docker.io/library/{python}")


def _make_uv(engine: Engine, folder: Path, name: str) -> None:
    version = name.rpartition(":")[2]
    engine.run(
        *(str(PROJECT / ".local" / "uv" / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check"),
        *("--target", str(folder), f"uv=={version}"),
        timeout_seconds=300,
    )
    image = folder / "image"
    image.mkdir()
    shutil.copy2(folder / "bin" / "uv", image / "uv")
    engine.import_folder(image, name)


def _make_python(engine: Engine, folder: Path, name: str) -> None:
    found = re.fullmatch(r".*python:(\d+\.\d+)\.\d+-slim-(\w+)", name)
    assert found, f"expected a slim image of Python and Debian, came {name}"
    version, suite = found.groups()
    engine.run("debootstrap", "--variant=minbase", f"--include={_PACKAGES}", suite, str(folder), timeout_seconds=900)
    (folder / "usr/bin/python").symlink_to("python3")
    come = subprocess.run(
        ["chroot", folder, "python", "--version"], capture_output=True, text=True, check=True, timeout=60
    )
    assert come.stdout.startswith(f"Python {version}."), f"expected Python {version} in {suite}, came {come.stdout}"
    if _OF_THIS_NETWORK.is_dir():
        # Where packages come through a proxy with an authority of its own.
        shutil.copytree(_OF_THIS_NETWORK, folder / _OF_THIS_NETWORK.relative_to("/"), dirs_exist_ok=True)
        subprocess.run(["chroot", folder, "update-ca-certificates"], capture_output=True, check=True, timeout=120)
    # uv and Node bring authorities of their own otherwise.
    changes = [f"ENV {variable}={_AUTHORITIES}" for variable in ("SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS")]
    engine.import_folder(folder, name, changes=changes)
    shutil.rmtree(folder)


def build(engine: Engine) -> str:
    """Builds deploy/Dockerfile as it is; the name of the image."""
    name = "localhost/usage-pipeline:0.1.0"
    engine.run(
        *("buildah", "build", "--isolation", "chroot", "--network", "host", "--pull-never", "--tag", name),
        *("--file", str(DEPLOY / "Dockerfile"), "--ignorefile", str(DEPLOY / "Dockerfile.dockerignore"), str(PROJECT)),
        timeout_seconds=1_200,
    )
    return name
