"""Where files are: those that tests read, the project's own and the real data beside it, and those of the tests' servers."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

PROJECT = Path(__file__).resolve().parents[2]
DOCS = PROJECT / "docs"
REAL_DATA = PROJECT.parent / "shared" / "data"
REAL_TRACE = REAL_DATA / "azure_llm_trace_code_2023.csv"
REAL_ISSUES = REAL_DATA / "github_issues_jest.csv"
# Where files are in memory.
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108
_MUCH_ROOM_BYTES = 8 * 2**30


@contextmanager
def servers_folder() -> Iterator[Path]:
    """A folder for servers until the end of the block; in memory, where that has much room.

    On a disk, to make and to drop the databases of tests, each a thousand files, took more than the tests themselves.
    """
    # Not pytest's own folder: it resets the permissions there, and as root PostgreSQL runs as another user.
    folder = Path(tempfile.mkdtemp(prefix="usage-pipeline-tests-", dir=_in_memory())).resolve()
    # As a checkout: what nobody else may pass has its servers elsewhere when root starts them.
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _in_memory() -> Path | None:
    if not _SHARED_MEMORY.is_dir() or not os.access(_SHARED_MEMORY, os.W_OK):
        return None
    room = min(shutil.disk_usage(_SHARED_MEMORY).free, psutil.virtual_memory().available)
    return _SHARED_MEMORY if room >= _MUCH_ROOM_BYTES else None
