"""Opens files of a local folder into which others write. They may put a link or a pipe in place of a file at any moment."""

import os
import stat
from typing import BinaryIO

_OF_FOLDER = os.O_RDONLY | os.O_DIRECTORY
# Without O_NONBLOCK, opening a pipe waits for its writer.
_OF_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK


class NotAFileError(OSError):
    """Something else than a regular file, such as a symbolic link; one line."""


def open_below(root: str, address: str) -> BinaryIO:
    """Opens a regular file below `root`. No part of its address below `root` may be a symbolic link.

    Raises NotAFileError, and OSError such as FileNotFoundError.
    """
    *folders, name = address.split("/")
    folder = os.open(root, _OF_FOLDER)
    try:
        for part in folders:
            inner = _opened(part, _OF_FOLDER | os.O_NOFOLLOW, folder, address)
            os.close(folder)
            folder = inner
        file = _opened(name, _OF_FILE, folder, address)
    finally:
        os.close(folder)
    if stat.S_ISREG(os.fstat(file).st_mode):
        return os.fdopen(file, "rb")
    os.close(file)
    raise NotAFileError(f"{address}: expected a file, came something else")


def _opened(name: str, flags: int, folder: int, address: str) -> int:
    try:
        return os.open(name, flags, dir_fd=folder)
    except OSError:
        if _is_link(name, folder):
            raise NotAFileError(f"{address}: expected no symbolic link, came one") from None
        raise


def _is_link(name: str, folder: int) -> bool:
    try:
        return stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except OSError:
        return False
