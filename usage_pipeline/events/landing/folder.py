"""The landing folder: files of events that others put there, and what is in it that is not read.

Files of the kinds of `events/files/names.py`, in any subfolder, hold events; below `archives/` they hold message archives. A
file that was read moves to `done/`. A file that cannot be read moves to `broken/`, with its reason beside it.
"""

import posixpath
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, BinaryIO, cast

import fsspec
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from usage_pipeline.events.files.names import KINDS_READ, Format, format_by_folder, kind_of
from usage_pipeline.events.ingest.batches import ARCHIVES, EVENTS, Kind
from usage_pipeline.events.landing.local_files import NotAFileError, open_below
from usage_pipeline.server_urls import without_password
from usage_pipeline.storage.postgres import first_line
from usage_pipeline.texts import counted

ARCHIVES_FOLDER, DONE, BROKEN = "archives", "done", "broken"
# What the name of a reason has behind that of its broken file.
REASON = ".reason.txt"
# Of a reason; ours have some hundred.
_MOST_REASON_BYTES = 2**16
# A look lists at most this many subfolders, so many levels deep, and names at most this many files that are not read.
MOST_FOLDERS = 5_000
MOST_LEVELS = 16
MOST_UNREAD = 1_000
_SHOWN_UNREAD = 3
READ_KINDS = f"Read are {KINDS_READ}, in the folder and in its subfolders"
# A name that begins with one of these is that of a file or folder that is not finished.
_UNFINISHED = (".", "_")
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

    @property
    def row_format(self) -> Format | None:
        """The format that one of its folders names; None: its rows tell."""
        return format_by_folder(self.address)


@dataclass(frozen=True, slots=True)
class Look:
    """What is in the folder: `files` that are read, by name, and addresses that are of no kind that is read.

    `is_all` False: there is more than a look lists; `unlisted` is the first folder that it did not list.
    """

    files: list[LandedFile]
    unread: list[str]
    is_all: bool
    unlisted: str | None = None

    @property
    def said(self) -> str:
        """What is not read, in a sentence or two; empty when there is nothing."""
        sentences = []
        if self.unread:
            count = counted(len(self.unread), "file is", "files are")
            count = count if self.is_all else f"More than {count}"
            shown = ", ".join(self.unread[:_SHOWN_UNREAD])
            sentences.append(f"{count} of no kind that is read, for example {shown}. {READ_KINDS}")
        if self.unlisted is not None:
            sentences.append(unlisted_fault(self.unlisted))
        return ". ".join(sentences)


def unlisted_fault(folder: str) -> str:
    """What to do about a folder that a look did not list."""
    return (
        f"{folder}/ and what comes after it is not looked at: expected at most {MOST_FOLDERS:,} subfolders, {MOST_LEVELS} "
        "levels deep, came more. Remove empty ones"
    )


def is_read(address: str) -> bool:
    """Whether a file at this address is read: no part of it is hidden or put away, and its name is of a kind that is read."""
    parts = address.split("/")
    return (
        kind_of(address) is not None
        and all(part and not part.startswith(_UNFINISHED) for part in parts)
        and (len(parts) == 1 or parts[0] not in (DONE, BROKEN))
        and len(parts) <= MOST_LEVELS + 1
    )


def folder_error(error: Exception, landing_url: str) -> str:
    """An error of the folder in one line, without the password of its address."""
    return without_password(f"{type(error).__name__}: {first_line(error)}", landing_url)


class Landing:
    """The folder of LANDING_URL: a path or any fsspec address."""

    def __init__(self, landing_url: str) -> None:
        self.files: fsspec.AbstractFileSystem
        self.files, self._root = url_to_fs(landing_url)
        self._url = landing_url

    @property
    def is_local(self) -> bool:
        """Whether its files are those of this machine."""
        return isinstance(self.files, LocalFileSystem)

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
        folders = deque([""])
        unlisted: str | None = None
        listings = 0
        while folders:
            folder = folders.popleft()
            if listings > MOST_FOLDERS or len(folder.split("/")) > MOST_LEVELS:
                unlisted = unlisted or folder
                continue
            listings += 1
            try:
                for address, info in self._listed(folder):
                    if info["type"] == "directory":
                        folders.extend([address] if address not in (DONE, BROKEN) else [])
                    elif info["type"] == "file" and is_read(address):
                        files.append(_landed(address, info))
                    else:
                        unread.append(address)
            except OSError:
                if not folder:
                    raise
                # One that cannot be listed keeps nothing else from being read.
                unread.append(f"{folder}/")
        files.sort(key=lambda file: (file.kind is ARCHIVES, file.address))
        is_all = unlisted is None and len(unread) <= MOST_UNREAD
        return Look(files, unread[:MOST_UNREAD], is_all, unlisted)

    def addresses(self, folder: str) -> list[str]:
        """All files below `done/` or `broken/`, with that folder in front."""
        self.files.invalidate_cache()
        root = self.path(folder)
        return [posixpath.join(folder, posixpath.relpath(path, root)) for path in sorted(self.files.find(root))]

    def is_link(self, address: str) -> bool:
        """Whether it is a symbolic link, wherever that leads."""
        if self.is_local:
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
        if self.is_local:
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
        self._write(posixpath.join(BROKEN, f"{file.address}{REASON}"), reason)

    def rewrite_reason(self, address: str, changed: Callable[[str], str]) -> None:
        """Changes the text of a reason, which has an address below `broken/`. Raises NotMoved, OSError."""
        with self.open(address) as stream:
            text = stream.read(_MOST_REASON_BYTES).decode(errors="replace")
        self._write(address, changed(text.removesuffix("\n")))

    def _write(self, address: str, text: str) -> None:
        try:
            self._refuse_links(address)
            self.files.makedirs(posixpath.dirname(self.path(address)), exist_ok=True)
            self.files.pipe_file(self.path(address), f"{text}\n".encode())
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
            if name and path.strip("/") != root.strip("/") and not name.startswith(_UNFINISHED):
                yield posixpath.join(folder, name), info


def _landed(address: str, info: dict[str, Any]) -> LandedFile:
    changed = next((info[name] for name in _TIMES if info.get(name) is not None), None)
    version = next((info[name] for name in _CHANGED if info.get(name) is not None), "")
    # Some file systems give a time in seconds when they list a folder, and as a datetime when they are asked for one file.
    return LandedFile(address, int(info["size"]), f"{info['size']}:{_seconds(version)}", _seconds(changed))


def _seconds(value: Any) -> Any:
    return value.timestamp() if isinstance(value, datetime) else value
