"""The landing folder: files of events that others put there, and what is in it that is not read.

`*.json`, `*.jsonl`, `*.ndjson` and all with `.gz` hold events; below `archives/` they hold message archives. A file that was
read moves to `done/`. A file that cannot be read moves to `broken/`, with its reason beside it.
"""

import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, BinaryIO, cast

import fsspec
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from usage_pipeline.events.ingest.batches import ARCHIVES, EVENTS, Kind
from usage_pipeline.events.landing.local_files import NotAFileError, open_below
from usage_pipeline.server_urls import without_password
from usage_pipeline.storage.postgres import first_line
from usage_pipeline.texts import counted

# A name that begins with . or _ is that of a file that is not finished.
ADDRESS = re.compile(r"(?:archives/)?[^./_][^/]*\.(?:jsonl?|ndjson)(?:\.gz)?")
ARCHIVES_FOLDER, DONE, BROKEN = "archives", "done", "broken"
# A look for files that are not read lists at most this many subfolders, and names at most this many files.
MOST_FOLDERS = 100
MOST_UNREAD = 1_000
_SHOWN_UNREAD = 3
READ_KINDS = "Read are *.json, *.jsonl and *.ndjson, also with .gz, in the folder itself and in archives/"
# The names that file systems give to the time of the last change of a file. Some also have a tag, which changes with the file.
_TIMES = ("mtime", "LastModified", "last_modified", "updated", "modified", "created")
_CHANGED = ("ETag", "etag", *_TIMES)


class NotMoved(Exception):
    """A file that was read could not be moved. `copied_to` is its copy, where it could be copied and not deleted."""

    def __init__(self, reason: str, copied_to: str | None = None) -> None:
        super().__init__(reason)
        self.copied_to = copied_to


@dataclass(frozen=True, slots=True)
class LandedFile:
    """A file below LANDING_URL. Another fingerprint under the same address is another file.

    `changed_at` is in seconds since the epoch; None where the file system does not tell.
    """

    address: str
    bytes: int
    fingerprint: str
    changed_at: float | None = field(default=None, compare=False)

    @property
    def kind(self) -> Kind:
        return ARCHIVES if self.address.startswith(f"{ARCHIVES_FOLDER}/") else EVENTS


@dataclass(frozen=True, slots=True)
class Look:
    """What is in the folder: `files` that are read, by name, and addresses that are of no kind that is read.

    `is_all` False: there is more that is not read than a look lists.
    """

    files: list[LandedFile]
    unread: list[str]
    is_all: bool

    @property
    def said(self) -> str:
        """One sentence about what is not read; empty when there is nothing."""
        if not self.unread:
            return ""
        count = counted(len(self.unread), "file is", "files are")
        count = count if self.is_all else f"More than {count}"
        shown = ", ".join(self.unread[:_SHOWN_UNREAD])
        return f"{count} of no kind that is read, for example {shown}. {READ_KINDS}"


def folder_error(error: Exception, landing_url: str) -> str:
    """An error of the folder in one line, without the password of its address."""
    return without_password(f"{type(error).__name__}: {first_line(error)}", landing_url)


class Landing:
    """The folder of LANDING_URL: a path or any fsspec address."""

    def __init__(self, landing_url: str) -> None:
        self.files: fsspec.AbstractFileSystem
        self.files, self._root = url_to_fs(landing_url)
        self._url = landing_url

    def said(self, error: Exception) -> str:
        """As `folder_error`, for this folder."""
        return folder_error(error, self._url)

    def path(self, address: str) -> str:
        return posixpath.join(self._root, address)

    def waiting(self) -> list[LandedFile]:
        """All files that wait to be read, by name, those of archives last."""
        return self.look().files

    def look(self) -> Look:
        """Lists the folder. Names that begin with . or _ are those of files that are not finished, and no matter."""
        self.files.invalidate_cache()
        files: list[LandedFile] = []
        unread: list[str] = []
        folders: list[str] = []
        for folder in ("", *([] if self.is_link(ARCHIVES_FOLDER) else [ARCHIVES_FOLDER])):
            for address, info in self._listed(folder):
                if info["type"] == "directory":
                    folders.extend([address] if address not in (ARCHIVES_FOLDER, DONE, BROKEN) else [])
                elif info["type"] == "file" and ADDRESS.fullmatch(address):
                    files.append(_landed(address, info))
                else:
                    unread.append(address)
        listings = 0
        while folders and listings < MOST_FOLDERS and len(unread) <= MOST_UNREAD:
            listings += 1
            folder = folders.pop(0)
            try:
                for address, info in self._listed(folder):
                    (folders if info["type"] == "directory" else unread).append(address)
            except OSError:
                # One that cannot be listed keeps nothing from being read.
                unread.append(f"{folder}/")
        return Look(files, unread[:MOST_UNREAD], not folders and len(unread) <= MOST_UNREAD)

    def addresses(self, folder: str) -> list[str]:
        """All files below `done/` or `broken/`, with that folder in front."""
        self.files.invalidate_cache()
        root = self.path(folder)
        return [posixpath.join(folder, posixpath.relpath(path, root)) for path in sorted(self.files.find(root))]

    def is_link(self, address: str) -> bool:
        """Whether it is a symbolic link, wherever that leads."""
        if isinstance(self.files, LocalFileSystem):
            return bool(self.files.islink(self.path(address)))
        try:
            # As SFTP tells it. Object stores have none.
            return bool(self.files.info(self.path(address))["type"] == "link")
        except (FileNotFoundError, NotADirectoryError):
            return False

    def look_at(self, address: str) -> LandedFile | None:
        """The file as it is now; None when it is gone."""
        self.files.invalidate_cache()
        try:
            info = self.files.info(self.path(address))
        except FileNotFoundError:
            return None
        return _landed(address, info)

    def open(self, address: str) -> BinaryIO:
        """Opens a file for reading. What it was when the folder was listed, it need not be any more.

        Raises NotAFileError for anything but a file: whoever may write into the folder must not choose what else we read, nor
        make us wait for a pipe.
        """
        if isinstance(self.files, LocalFileSystem):
            return open_below(self._root, address)
        self.files.invalidate_cache()
        if (kind := self.files.info(self.path(address))["type"]) != "file":
            raise NotAFileError(f"{address}: expected a file, came a {kind}")
        return cast("BinaryIO", self.files.open(self.path(address), "rb"))

    def put_away(self, file: LandedFile, folder: str, copied_to: str | None = None) -> bool:
        """Moves a file to `done/` or `broken/`. False when it changed meanwhile: then it stays, or comes back.

        A file that was copied before to `copied_to` is only deleted. Raises NotMoved.
        """
        target = posixpath.join(folder, file.address)
        try:
            if self.look_at(file.address) != file:
                return False
            self._refuse_links(posixpath.dirname(target))
            copy = self.look_at(copied_to) if copied_to else None
            if copy is not None and copy.bytes == file.bytes:
                self.files.rm_file(self.path(file.address))
                return True
            if self.look_at(target) is not None:
                target = f"{target}.{datetime.now(UTC):%Y%m%dT%H%M%S%f}"
            self.files.makedirs(posixpath.dirname(self.path(target)), exist_ok=True)
            self.files.mv(self.path(file.address), self.path(target))
        except NotMoved:
            raise
        except Exception as error:
            # Each file system has errors of its own. An object store copies, and then may not be allowed to delete.
            raise NotMoved(self.said(error), self._copy_at(target, file)) from error
        moved = self.look_at(target)
        if moved is not None and moved.bytes != file.bytes:
            # Its writer was still writing, and we have not read what it added.
            self.files.mv(self.path(target), self.path(file.address))
            return False
        return True

    def explain(self, file: LandedFile, reason: str) -> None:
        """Puts the reason beside a broken file. Raises NotMoved."""
        beside = self.path(posixpath.join(BROKEN, f"{file.address}.reason.txt"))
        try:
            self._refuse_links(posixpath.join(BROKEN, f"{file.address}.reason.txt"))
            self.files.makedirs(posixpath.dirname(beside), exist_ok=True)
            self.files.pipe_file(beside, f"{reason}\n".encode())
        except NotMoved:
            raise
        except Exception as error:
            raise NotMoved(self.said(error)) from error

    def _refuse_links(self, wanted: str) -> None:
        """Whoever may write into the landing folder must not choose where else we write. Raises NotMoved."""
        parts = wanted.split("/")
        for count in range(1, len(parts) + 1):
            address = "/".join(parts[:count])
            if self.is_link(address):
                raise NotMoved(f"{address}: expected no symbolic link, came one")

    def _copy_at(self, target: str, file: LandedFile) -> str | None:
        try:
            copy = self.look_at(target)
        except Exception:
            return None
        return target if copy is not None and copy.bytes == file.bytes else None

    def _listed(self, folder: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """What is in a folder, by name: addresses, and what the file system says of them."""
        root = self.path(folder).rstrip("/")
        listed, problem = None, ""
        try:
            listed = self.files.ls(root, detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            problem = self.said(error)
        # Outside of `except`: the error itself may hold the password, and a run's failure tells all errors behind one.
        if listed is None:
            raise OSError(problem)
        for info in sorted(listed, key=lambda info: str(info["name"])):
            path = str(info["name"]).rstrip("/")
            name = posixpath.basename(path)
            # An object store may list the folder itself, as an empty object.
            if name and path.strip("/") != root.strip("/") and not name.startswith((".", "_")):
                yield posixpath.join(folder, name), info


def _landed(address: str, info: dict[str, Any]) -> LandedFile:
    changed = next((info[name] for name in _TIMES if info.get(name) is not None), None)
    version = next((info[name] for name in _CHANGED if info.get(name) is not None), "")
    # Some file systems give a time in seconds when they list a folder, and as a datetime when they are asked for one file.
    return LandedFile(address, int(info["size"]), f"{info['size']}:{_seconds(version)}", _seconds(changed))


def _seconds(value: Any) -> Any:
    return value.timestamp() if isinstance(value, datetime) else value
