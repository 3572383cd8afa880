"""Debian's container programs, with everything of theirs in one folder. Nothing of the machine's own containers is touched."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

PROGRAMS = ("buildah", "podman", "debootstrap", "runc", "catatonit", "conmon")
# What podman puts elsewhere, whatever it is told: caches, and folders for networks and locks. They go if they were not there.
_TRACES = ("/var/lib/containers", "/run/containers", "/run/libpod", "/dev/shm/libpod_lock")  # noqa: S108
# Docker's default for processes. This machine may not raise limits, so they are given.
LIMITS = ("--ulimit", "nofile=4096:4096", "--ulimit", "nproc=8192:8192")
_STORAGE = """\
[storage]
driver = "overlay"
graphroot = "{folder}/storage"
runroot = "{folder}/run"
"""
_CONTAINERS = """\
[containers]
log_driver = "k8s-file"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
lock_type = "file"
runtime = "runc"
tmp_dir = "{folder}/run/libpod"
volume_path = "{folder}/volumes"
"""


def what_is_missing() -> str | None:
    """Why no image can be built here, in one line; None if it can."""
    if os.geteuid():
        return "expected root, which debootstrap and mounts need, came another user"
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    missing = [name for name in PROGRAMS if not shutil.which(name, path=path)]
    if missing:
        return f"expected Debian's packages {', '.join(PROGRAMS)}, came none with {', '.join(missing)}: apt-get install them"
    return None


@dataclass
class Engine:
    """`buildah` and `podman` on a folder. `close` stops and removes every container, and leaves no mount behind."""

    folder: Path
    _environment: dict[str, str] = field(init=False)
    _traces: tuple[Path, ...] = field(init=False)

    def __post_init__(self) -> None:
        self._traces = tuple(path for path in map(Path, _TRACES) if not path.exists())
        settings = {"CONTAINERS_STORAGE_CONF": _STORAGE, "CONTAINERS_CONF": _CONTAINERS}
        self._environment = os.environ | {
            "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin",
            "XDG_CACHE_HOME": str(self.folder),
        }
        for name, text in settings.items():
            path = self.folder / f"{name.lower()}.toml"
            path.write_text(text.format(folder=self.folder))
            self._environment[name] = str(path)

    def run(self, *command: str, timeout_seconds: float = 120, stdin: subprocess.Popen[bytes] | None = None) -> str:
        """What a program prints; AssertionError with its errors when it fails."""
        done = self.tried(*command, timeout_seconds=timeout_seconds, stdin=stdin)
        assert done.returncode == 0, f"{' '.join(command[:3])}: {done.stdout[-2_000:]}{done.stderr[-8_000:]}"
        return done.stdout

    def tried(
        self, *command: str, timeout_seconds: float = 120, stdin: subprocess.Popen[bytes] | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            env=self._environment,
            stdin=stdin.stdout if stdin else subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_seconds,
            check=False,
        )

    def has_image(self, name: str) -> bool:
        return self.tried("podman", "image", "exists", name).returncode == 0

    def import_folder(self, folder: Path, name: str, *, changes: Sequence[str] = ()) -> None:
        """An image of one layer."""
        options = [part for change in changes for part in ("--change", change)]
        with subprocess.Popen(["tar", "--directory", folder, "--create", "."], stdout=subprocess.PIPE) as tar:
            self.run("podman", "import", *options, "-", name, timeout_seconds=600, stdin=tar)
        assert tar.returncode == 0

    def start(self, name: str, image: str, options: Sequence[str], command: Sequence[str]) -> None:
        self.run("podman", "run", "--detach", "--name", name, *options, image, *command)

    def execute(self, name: str, *command: str, timeout_seconds: float = 60) -> subprocess.CompletedProcess[str]:
        """A command in a running container."""
        return self.tried("podman", "exec", name, *command, timeout_seconds=timeout_seconds)

    def state(self, name: str) -> str:
        return self.run("podman", "inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", name).strip()

    def logs(self, name: str) -> str:
        done = self.tried("podman", "logs", "--tail", "40", name)
        return done.stdout + done.stderr

    def close(self) -> None:
        self.tried("podman", "rm", "--all", "--force", "--time", "2", timeout_seconds=300)
        # Of the storage itself, innermost first.
        mounts = [
            one.mountpoint
            for one in psutil.disk_partitions(all=True)
            if Path(one.mountpoint).is_relative_to(self.folder)
        ]
        for mountpoint in sorted(mounts, reverse=True):
            subprocess.run(["umount", "--lazy", mountpoint], check=False, timeout=60)
        for path in self._traces:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
