"""Erasure in the landing folder: deletes files in `done/` that name the user. Everything in them is stored in tables."""

import gzip
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import BinaryIO

from usage_pipeline.events.erasure.spellings import Spellings
from usage_pipeline.events.landing.folder import BROKEN, DONE, Landing
from usage_pipeline.events.landing.local_files import NotAFileError

_READ_BYTES = 1 << 20


@dataclass(slots=True)
class LandedErasure:
    """Files that were deleted, and files that name the user but must not be deleted yet, each with what to do."""

    deleted: int = 0
    problems: list[str] = field(default_factory=list)


def erase_landed(landing: Landing, who: Spellings) -> LandedErasure:
    """Deletes the files of `done/` that hold the id as a JSON string, or as the number of a user. Raises OSError."""
    erasure = LandedErasure()
    look = landing.look()
    # What is behind them belongs to others.
    links = {address for address in (DONE, BROKEN, *look.unread) if landing.is_link(address)}
    for address in sorted(links):
        erasure.problems.append(f"{address}: it is a symbolic link, which is not followed. Look behind it yourself")

    def holds(address: str, is_in: Callable[[bytes], bool]) -> bool:
        try:
            return _holds(landing, address, is_in, who.longest_bytes)
        except NotAFileError as error:
            erasure.problems.append(f"{error}. Look at it yourself")
            return False

    for address in landing.addresses(DONE) if DONE not in links else ():
        if holds(address, who.is_quoted_in):
            landing.files.rm_file(landing.path(address))
            erasure.deleted += 1
    for address in landing.addresses(BROKEN) if BROKEN not in links else ():
        if holds(address, who.is_in):
            erasure.problems.append(
                f"{address}: it names the user and was not read to its end. Correct it or delete it"
            )
    for file in look.files:
        if holds(file.address, who.is_quoted_in):
            erasure.problems.append(
                f"{file.address}: it names the user and was not read yet, or cannot be moved. Run the erasure again after that"
            )
    for address in look.unread:
        if address not in links and holds(address, who.is_in):
            erasure.problems.append(f"{address}: it names the user and is of no kind that is read. Delete it")
    return erasure


def _holds(landing: Landing, address: str, is_in: Callable[[bytes], bool], longest_bytes: int) -> bool:
    """Whether a piece of a file is what we look for. A gzip file is decompressed; a broken one is read as far as possible."""
    if address.endswith("/"):
        return False
    with landing.open(address) as stream:
        plain: BinaryIO | gzip.GzipFile = gzip.GzipFile(fileobj=stream) if ".gz" in address else stream
        rest = b""
        try:
            while piece := plain.read(_READ_BYTES):
                text = rest + piece
                if is_in(text):
                    return True
                rest = text[-longest_bytes:]
        except (gzip.BadGzipFile, EOFError, zlib.error):
            return False
    return False
