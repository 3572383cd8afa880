"""`usage-pipeline load events`: files of usage events, one after the other, and what became of each."""

import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from usage_pipeline.commands.options import UsageError
from usage_pipeline.commands.output import print_json, print_table, progress, say
from usage_pipeline.settings import Settings, load_settings
from usage_pipeline.texts import counted

if TYPE_CHECKING:
    from collections.abc import Iterator

    import psycopg

    from usage_pipeline.events.files.loading import Loaded
    from usage_pipeline.events.files.names import FileKind, Format

STANDARD_INPUT = "-"
# Of what is rejected, the first ones of each file are shown.
MOST_SHOWN = 20
_READ_BYTES = 1 << 20
_LOOK_BYTES = 1 << 16
_GZIP, _ZSTD, _PARQUET = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PAR1"
_COUNTS = ("inserted", "duplicates", "conflicts", "rejected", "passed")


def load_events(files: Sequence[str], row_format: "str | None", as_json: bool) -> bool:
    """Loads them, and prints what became of each. False when something was rejected or could not be read.

    Raises UsageError when standard input is named twice.
    """
    from usage_pipeline.storage.postgres import connect

    if files.count(STANDARD_INPUT) > 1:
        raise UsageError(
            f"FILE: expected standard input ({STANDARD_INPUT}) once, came {files.count(STANDARD_INPUT)} times"
        )
    settings = load_settings()
    outcomes: list[tuple[str, Loaded]] = []
    with closing(connect(settings)) as connection, progress(as_json) as tell:
        chosen = cast("Format | None", row_format)
        outcomes.extend((name, _loaded(connection, name, chosen, settings, tell)) for name in files)
    is_whole = all(one.reason is None and not one.rejected for _, one in outcomes)
    if as_json:
        print_json({"success": is_whole, "files": [_as_json(*each) for each in outcomes]})
    else:
        _print(outcomes)
    return is_whole


def _loaded(
    connection: "psycopg.Connection",
    name: str,
    row_format: "Format | None",
    settings: Settings,
    tell: Callable[[str], None],
) -> "Loaded":
    from usage_pipeline.events.files.loading import Loaded, Source, load_file

    try:
        with _opened(name) as (stream, kind, size):
            if kind is None:
                return Loaded(reason=_of_no_kind())

            def told(so_far: Loaded) -> None:
                share = f", {min(stream.tell() / size, 1):.0%}" if size and kind.content != "parquet" else ""
                tell(f"{name}: {counted(so_far.received, 'row')} read{share}")

            source = Source(
                f"file:{name}"[:_LOOK_BYTES],
                kind,
                row_format=row_format,
                is_local=name != STANDARD_INPUT,
            )
            return load_file(connection, stream, source, settings=settings, most_rejections_kept=MOST_SHOWN, tell=told)
    except OSError as error:
        return Loaded(reason=f"expected a file that can be read, came: {error.strerror or error}")


def _of_no_kind() -> str:
    from usage_pipeline.events.files.names import KINDS_READ

    return f"expected one of {KINDS_READ}, came another name"


@contextmanager
def _opened(name: str) -> "Iterator[tuple[BinaryIO, FileKind | None, int]]":
    """A file, its kind, and its size. Raises OSError, also for what is no file."""
    from usage_pipeline.events.files.names import kind_of

    if name == STANDARD_INPUT:
        with tempfile.TemporaryFile() as copy:
            yield copy, _copied_input(copy), copy.tell()
        return
    # Without O_NONBLOCK, opening a pipe waits for its writer.
    with open(name, "rb", opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK)) as stream:
        found = os.fstat(stream.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise OSError("no file")
        yield stream, kind_of(name), found.st_size


def _copied_input(copy: BinaryIO) -> "FileKind":
    """Copies standard input, whose end some kinds need first, and finds out its kind by what it begins with."""
    from usage_pipeline.events.files.names import FileKind
    from usage_pipeline.events.files.packed import BrokenFile, unpacked
    from usage_pipeline.events.ingest.documents import begins_object, seems_lines

    shutil.copyfileobj(sys.stdin.buffer, copy, _READ_BYTES)
    copy.seek(0)
    begin = copy.read(4)
    copy.seek(0)
    packing: Any = "gz" if begin.startswith(_GZIP) else "zst" if begin == _ZSTD else ""
    try:
        begin = unpacked(copy, packing).read(_LOOK_BYTES)
    except BrokenFile:
        begin = b""
    copy.seek(0)
    text = begin.removeprefix(b"\xef\xbb\xbf").lstrip()
    if begin.startswith(_PARQUET):
        return FileKind("parquet", packing)
    if text.startswith(b"[") or (begins_object(text) and not seems_lines(text) and b"\n" in text.rstrip()):
        return FileKind("document", packing)
    return FileKind("lines" if text.startswith(b"{") else "csv", packing)


def _as_json(name: str, loaded: "Loaded") -> dict[str, Any]:
    return {
        "file": name,
        "format": loaded.row_format,
        "received": loaded.received,
        "stored": loaded.inserted,
        "duplicates": loaded.duplicates,
        "conflicts": loaded.conflicts,
        "rejected": loaded.rejected,
        "passed_over": loaded.passed,
        "fault": loaded.reason,
        "notes": loaded.notes,
        "rejections": [{loaded.place: position, "reason": reason} for position, reason in loaded.rejections],
        "more_rejections": loaded.rejected - len(loaded.rejections),
    }


def _print(outcomes: "list[tuple[str, Loaded]]") -> None:
    rows = [(name, one.row_format, *(getattr(one, count) for count in _COUNTS)) for name, one in outcomes]
    columns = ["file", "format", "stored", "duplicates", "conflicts", "rejected", "passed over"]
    if not any(one.passed for _, one in outcomes):
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    print_table("Loaded usage events", columns, rows)
    for name, loaded in outcomes:
        for note in loaded.notes:
            say(f"{name}: {note}")
        for position, reason in loaded.rejections:
            say(f"{name}: {loaded.place} {position}: {reason}", to_errors=True)
        if loaded.rejected > len(loaded.rejections):
            say(f"{name}: and {loaded.rejected - len(loaded.rejections):,} more", to_errors=True)
        if loaded.reason is not None:
            say(f"{name}: not read to its end: {loaded.reason}", to_errors=True)
    if any(loaded.conflicts for _, loaded in outcomes):
        say("What has the id of a stored event and says something else was kept apart: usage-pipeline conflicts list")
