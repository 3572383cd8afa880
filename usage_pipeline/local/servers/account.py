"""Whom embedded servers run as, and where that user reaches its data and programs. No folder of anybody is opened for it."""

import hashlib
import os
import pwd
import secrets
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_NAME = "pgserver"
# Where root puts what the user cannot reach in root's own folders.
_PLACE = Path("/var/lib/usage-pipeline")
_PROGRAMS = "programs"


class AccountError(RuntimeError):
    """There is no user for embedded servers, and none can be made."""


@dataclass(frozen=True, slots=True)
class Account:
    """The user of embedded servers. `name` is None when they run as the caller, who is not root."""

    name: str | None

    @classmethod
    def of_servers(cls) -> "Account":
        """The caller; or for root a user without any rights but to its own data, which is made when missing.

        PostgreSQL refuses to run as root. A Redis that does can be told to write any file. Raises AccountError.
        """
        if os.geteuid() != 0:
            return cls(None)
        try:
            pwd.getpwnam(_NAME)
        except KeyError:
            _make_user()
        return cls(_NAME)

    @property
    def process_options(self) -> dict[str, Any]:
        """For `subprocess`: the user, none of root's groups, and new files that nobody else reads."""
        if self.name is None:
            return {"umask": 0o077}
        return {"umask": 0o077, "user": self.name, "group": pwd.getpwnam(self.name).pw_gid, "extra_groups": []}

    @property
    def trusted(self) -> set[int]:
        """The ids of the caller and of the user: what is theirs was put there by nobody else."""
        return {os.geteuid()} | ({pwd.getpwnam(self.name).pw_uid} if self.name is not None else set())

    def home_of(self, folder: Path) -> Path:
        """`folder` (made when missing), which is the user's own and private. Returns where it really is.

        Where the user may not pass the folders above, it becomes a link to a folder that it may reach, and its content moves.
        Nothing deletes that by itself: who deletes the link deletes what it leads to (`make clean` does).
        """
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder = folder.parent.resolve() / folder.name
        if self.name is not None and not folder.is_symlink() and not self._may('test -x "$1"', folder.parent):
            # By chance and not by its path: a checkout may be moved, with its links, and another come in its place.
            _move(folder, _PLACE / secrets.token_hex(6) / folder.name)
        home = folder.resolve()
        home.mkdir(mode=0o700, exist_ok=True)
        if self.name is not None and home.owner() != self.name:
            # Once, while only root can have put a link in here.
            user = pwd.getpwnam(self.name)
            for path in (*home.rglob("*"), home):
                os.chown(path, user.pw_uid, user.pw_gid, follow_symlinks=False)
        home.chmod(0o700)
        return home

    def programs(self, folder: Path) -> Path:
        """`folder` in the package of a wheel, or a copy of it where the user may not read it.

        Programs find the libraries that came with them by their place beside the package: these are copied, too.
        """
        # An error of `find`, which says that the user may not get there, is a line as well.
        readable = 'test -x "$1" && ! find "$1" ! -readable 2>&1 | grep -q .'
        if self.name is None or self._may(readable, folder):
            return folder
        version = hashlib.sha256(f"{folder}:{folder.stat().st_mtime_ns}".encode()).hexdigest()[:12]
        package = folder.parent
        libraries = package.with_name(f"{package.name}.libs")
        copy = _PLACE / _PROGRAMS / f"{package.name}-{version}"
        if not copy.exists():
            # Renamed at the end, so that what is there is whole.
            unfinished = copy.with_name(f"{copy.name}.{os.getpid()}")
            shutil.copytree(folder, unfinished / package.name / folder.name, symlinks=True)
            if libraries.is_dir():
                shutil.copytree(libraries, unfinished / libraries.name, symlinks=True)
            for path in (_PLACE, copy.parent, unfinished, *unfinished.rglob("*")):
                if not path.is_symlink():
                    path.chmod(0o755)
            try:
                unfinished.rename(copy)
            except OSError:
                shutil.rmtree(unfinished)
                if not copy.exists():  # another start was faster
                    raise
        return copy / package.name / folder.name

    def write(self, path: Path, text: str) -> None:
        """Replaces a file in a home, which the user and nobody else reads.

        The user may have put a link in its place, to a file that only root may write.
        """
        path.unlink(missing_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            if self.name is not None:
                user = pwd.getpwnam(self.name)
                os.fchown(descriptor, user.pw_uid, user.pw_gid)
            file.write(text)

    def _may(self, script: str, folder: Path) -> bool:
        command = ["/bin/sh", "-c", script, "sh", str(folder)]
        return subprocess.run(command, cwd="/", capture_output=True, **self.process_options).returncode == 0  # noqa: S603


def _make_user() -> None:
    command = ["useradd", "--system", "--user-group", "--no-create-home", "--shell", "/usr/sbin/nologin", _NAME]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", None) or error
        raise AccountError(
            f"embedded servers never run as root: expected to make the user {_NAME} for them, came: {said}; "
            "make it yourself, or start as another user than root"
        ) from None


def _move(folder: Path, home: Path) -> None:
    home.parent.mkdir(parents=True)
    for path in (_PLACE, home.parent):
        path.chmod(0o755)
    if folder.exists():
        shutil.move(folder, home)
    folder.symlink_to(home)
