"""Erasure in the landing folder: deletes files in `done/` that name the user. Everything in them is stored in tables.

In the reasons beside files of `broken/`, the pseudonym takes the place of the id.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from usage_pipeline.events.erasure.refused_input import erased_text
from usage_pipeline.events.erasure.spellings import Spellings
from usage_pipeline.events.files.csv_rows import csv_table
from usage_pipeline.events.files.names import FileKind, kind_once_of
from usage_pipeline.events.files.packed import BrokenFile, unpacked
from usage_pipeline.events.files.parquet_table import parquet_table
from usage_pipeline.events.files.rows import WrongCells
from usage_pipeline.events.landing.folder import BROKEN, DONE, REASON, Landing, NotMoved
from usage_pipeline.events.landing.local_files import NotAFileError

_READ_BYTES = 1 << 20
# Of a row of a table, more than any that is stored.
_MOST_ROW_BYTES = 2**28
# However much becomes of a packed file: what is looked at is not kept.
_ANY_SIZE = 2**62
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_encode = msgspec.json.Encoder(enc_hook=str).encode


@dataclass(slots=True)
class LandedErasure:
    """Files that were deleted, reasons that were changed, and files that name the user but must not be deleted yet, each with
    what to do.
    """

    deleted: int = 0
    reasons: int = 0
    problems: list[str] = field(default_factory=list)


def erase_landed(landing: Landing, who: Spellings, pseudonym: str) -> LandedErasure:
    """Deletes the files of `done/` that hold the id as a JSON string, or as the number of a user. Raises OSError."""
    erasure = LandedErasure()
    look = landing.look()
    # What is behind them belongs to others.
    links = {address for address in (DONE, BROKEN, *look.unread) if landing.is_link(address)}
    for address in sorted(links):
        erasure.problems.append(f"{address}: it is a symbolic link, which is not followed. Look behind it yourself")

    def holds(address: str, is_in: Callable[[bytes], bool]) -> bool:
        try:
            return _holds(landing, address, is_in, who)
        except NotAFileError as error:
            erasure.problems.append(f"{error}. Look at it yourself")
        except BrokenFile as error:
            erasure.problems.append(
                f"{address}: nobody knows whom it names: {error}. Look at it yourself, or delete it"
            )
        return False

    for address in landing.addresses(DONE) if DONE not in links else ():
        if holds(address, who.is_quoted_in):
            landing.files.rm_file(landing.path(address))
            erasure.deleted += 1
    for address in landing.addresses(BROKEN) if BROKEN not in links else ():
        if not holds(address, who.is_in):
            continue
        if address.endswith(REASON):
            try:
                landing.rewrite_reason(address, lambda text: erased_text(text, who, pseudonym))
            except NotMoved as error:
                erasure.problems.append(f"{address}: it names the user and cannot be changed: {error}. Delete it")
            else:
                erasure.reasons += 1
            continue
        erasure.problems.append(f"{address}: it names the user and was not read to its end. Correct it or delete it")
    for file in look.files:
        if holds(file.address, who.is_quoted_in):
            erasure.problems.append(
                f"{file.address}: it names the user and was not read yet, or cannot be moved. Run the erasure again after that"
            )
    for address in look.unread:
        if address not in links and holds(address, who.is_in):
            erasure.problems.append(f"{address}: it names the user and is of no kind that is read. Delete it")
    return erasure


def _holds(landing: Landing, address: str, is_in: Callable[[bytes], bool], who: Spellings) -> bool:
    """Whether a file has what we look for. A packed one is unpacked, and read as far as possible where it is broken.

    Raises BrokenFile for a Parquet file that is not read to its end: nothing in it can be seen from outside.
    """
    if address.endswith("/"):
        return False
    kind = kind_once_of(address) or FileKind("lines")
    if kind.content == "csv":
        try:
            return _in_table(landing, address, kind, is_in, who)
        except BrokenFile:
            # As text: in it, an id may have its quotes twice, but whoever looks for it again finds the rest.
            is_in = who.is_in
    elif kind.content == "parquet":
        return _in_table(landing, address, kind, is_in, who)
    with landing.open(address) as stream:
        plain = unpacked(stream, kind.packing, _ANY_SIZE)
        rest = b""
        try:
            while piece := plain.read1(_READ_BYTES):
                text = rest + piece
                # JSON may be a text in JSON, as an export writes a column of it.
                if is_in(text) or (b'\\"' in text and is_in(text.replace(b'\\"', b'"'))):
                    return True
                rest = text[-who.longest_bytes :]
        except BrokenFile:
            return False
    return False


def _in_table(landing: Landing, address: str, kind: FileKind, is_in: Callable[[bytes], bool], who: Spellings) -> bool:
    with landing.open(address) as stream:
        if kind.content == "csv":
            table = csv_table(unpacked(stream, kind.packing, _ANY_SIZE), _MOST_ROW_BYTES)
        else:
            is_local = landing.is_local and not kind.packing
            plain = stream if is_local else unpacked(stream, kind.packing, _ANY_SIZE)
            table = parquet_table(plain, is_local, _MOST_ROW_BYTES)
        if is_in(_encode(table.columns)):
            return True
        return any(
            any(map(who.means, row.cells)) or is_in(_encode(row.cells)) or _in_lines(row.cells, who)
            if isinstance(row, WrongCells)
            else _in_row(row, is_in)
            for _, row in table.rows
        )


def _in_lines(cells: Sequence[str], who: Spellings) -> bool:
    """Whether the rows that a quote swallowed have it."""
    return any("\n" in cell and who.is_in(cell.encode()) for cell in cells)


def _in_row(row: Any, is_in: Callable[[bytes], bool]) -> bool:
    """As the JSON that it would be. A cell may have JSON of its own, and a cell of digits is a number."""
    if not isinstance(row, Mapping):
        return False
    cells = {
        name: msgspec.Raw(cell.encode()) if isinstance(cell, str) and _NUMBER.fullmatch(cell) else cell
        for name, cell in row.items()
    }
    return is_in(_encode(cells)) or any(
        is_in(cell.encode()) for cell in row.values() if isinstance(cell, str) and '"' in cell
    )
