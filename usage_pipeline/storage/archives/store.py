"""The place of archive files: a folder or any fsspec address (ARCHIVE_URL). Files, sizes and checksums; no database."""

import hashlib
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import fsspec

from usage_pipeline.settings import Settings

_PIECE_BYTES = 2**20
Result = TypeVar("Result")


class ArchiveUnavailable(Exception):
    """The place of the archives does not answer, or is not set. Nothing was changed. The message is one line."""


class ArchiveDamaged(Exception):
    """A file is missing or differs from the manifest. It is not read, and nothing is dropped. The message is one line."""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """Size and SHA-256 of a file."""

    bytes: int
    checksum: str


class ArchiveStore:
    """Files below an fsspec address. Raises ArchiveUnavailable when the place fails. Messages never show the address."""

    def __init__(self, url: str) -> None:
        self._filesystem, root = self._guarded("open", lambda: fsspec.core.url_to_fs(url))
        self._root = str(root).rstrip("/")

    @property
    def protocol(self) -> str:
        """The kind of place, for example file or s3."""
        protocol = self._filesystem.protocol
        return str(protocol if isinstance(protocol, str) else protocol[0])

    def put(self, local: Path, address: str) -> None:
        """Stores a local file under an address that is not taken."""

        def store() -> None:
            path = self._path(address)
            self._filesystem.makedirs(path.rpartition("/")[0], exist_ok=True)
            self._filesystem.put_file(str(local), path)
            if self.protocol == "file":
                _make_durable(Path(path), Path(self._root).parent)

        self._guarded(f"write {address} to", store)

    def fetch(self, address: str, local: Path | None = None) -> StoredFile:
        """Reads a file, and stores it in `local` if that is given. Raises ArchiveDamaged when there is no such file."""

        def read() -> StoredFile:
            digest, size = hashlib.sha256(), 0
            with self._filesystem.open(self._path(address), "rb") as source, _writing(local) as target:
                while piece := source.read(_PIECE_BYTES):
                    digest.update(piece)
                    size += len(piece)
                    target(piece)
            return StoredFile(size, digest.hexdigest())

        try:
            return self._guarded(f"read {address} from", read, passed=FileNotFoundError)
        except FileNotFoundError:
            raise ArchiveDamaged(f"{address}: expected an archive file, came none") from None

    def delete(self, address: str) -> None:
        """Deletes a file, if it is there."""
        try:
            self._guarded(
                f"delete {address} from", lambda: self._filesystem.rm_file(self._path(address)), FileNotFoundError
            )
        except FileNotFoundError:
            return

    def _path(self, address: str) -> str:
        return f"{self._root}/{address}"

    def _guarded(self, what: str, action: Callable[[], Result], passed: type[Exception] | tuple[()] = ()) -> Result:
        try:
            return action()
        except passed:
            raise
        except Exception as error:
            # Each kind of place has errors of its own. Their texts may hold the address with its secrets: the type is told.
            name = type(error).__name__
            reason = f": {error.strerror}" if isinstance(error, OSError) and error.strerror else ""
            raise ArchiveUnavailable(f"ARCHIVE_URL: cannot {what} it ({name}{reason})") from None


@contextmanager
def _writing(local: Path | None) -> Iterator[Callable[[bytes], object]]:
    if local is None:
        yield lambda _: None
        return
    with local.open("wb") as target:
        yield target.write


def _make_durable(path: Path, root: Path) -> None:
    """Writes the file and its folders durably to disk: after the commit the file is the only place of its rows."""
    for each in (path, *path.parents):
        handle = os.open(each, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
        if each == root:
            return


def archive_store(settings: Settings) -> ArchiveStore | None:
    """The place that ARCHIVE_URL names. None if it is not set."""
    return ArchiveStore(settings.archive_url) if settings.archive_url else None


def checksum(local: Path) -> StoredFile:
    """Size and SHA-256 of a local file."""
    with local.open("rb") as source:
        return StoredFile(local.stat().st_size, hashlib.file_digest(source, "sha256").hexdigest())


def new_address(table: str, start: datetime) -> str:
    """A new address for rows of `table` from `start` on. Its random part makes sure that no file is written twice."""
    name = table.rpartition(".")[2]
    return f"{table}/{start:%Y/%m}/{name}_{start:%Y%m%dT%HZ}_{secrets.token_hex(6)}.parquet"
