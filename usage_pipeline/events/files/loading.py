"""Loads a file of events into the tables, as a stream in batches. The landing folder and `load events` use one function."""

from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice
from typing import Any, BinaryIO, overload

import msgspec
import psycopg

from usage_pipeline.events.files.cells import MEMBERS, item_of, unknown_columns
from usage_pipeline.events.files.csv_rows import csv_table
from usage_pipeline.events.files.formats import chosen_format, formats_by_members
from usage_pipeline.events.files.json_items import json_items
from usage_pipeline.events.files.making import UNWRITABLE, Made, Maker
from usage_pipeline.events.files.names import FileKind, Format
from usage_pipeline.events.files.packed import BrokenFile, unpacked
from usage_pipeline.events.files.parquet_table import parquet_table
from usage_pipeline.events.files.rows import Table, WrongCells
from usage_pipeline.events.ingest.batches import EVENTS, Kind, LetterBox, ingest
from usage_pipeline.settings import Settings
from usage_pipeline.values import UNREADABLE_JSON, Malformed, described

ITEMS_PER_BATCH = 2_000
_BYTES_PER_BATCH = 32 * 2**20
# Rejected items and conflicts are kept, so they could fill the database; and a file with so many has one fault in all of them.
MOST_REJECTED = 10_000
MOST_REJECTED_BYTES = 256 * 2**20
# Rows at the beginning of a file of JSON that are looked at to find its format: the first ones may have faults.
_LOOKED_AT = 20
_SHOWN_COLUMNS = 5
_encode = msgspec.json.Encoder(enc_hook=str).encode
_object_of = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_COUNTS = ("received", "inserted", "duplicates", "conflicts")


@dataclass(slots=True)
class Loaded:
    """The outcome of a file: received = inserted + duplicates + conflicts + rejected. `reason`: it was not read to its end.

    `passed` rows are no events by themselves, such as spans; `notes` say so, and that there are more pages. `rejections` are
    the first ones, by position, which is that of a `place`: a line, a row, an item.
    """

    row_format: Format | None = None
    received: int = 0
    inserted: int = 0
    duplicates: int = 0
    conflicts: int = 0
    rejected: int = 0
    passed: int = 0
    reason: str | None = None
    notes: list[str] = field(default_factory=list)
    rejections: list[tuple[int, str]] = field(default_factory=list)
    place: str = "line"


@dataclass(frozen=True, slots=True)
class Source:
    """A file to load. `row_format` None: its rows tell. `letters_of`: rejected items become dead letters of this source.

    `name` is noted with each batch. `is_local`: another process can read its stream, too.
    """

    name: str
    kind: FileKind
    holds: Kind = EVENTS
    row_format: Format | None = None
    letters_of: bytes | None = None
    is_local: bool = False


def load_file(
    connection: psycopg.Connection,
    stream: BinaryIO,
    source: Source,
    *,
    settings: Settings,
    most_rejections_kept: int = 0,
    tell: Callable[[Loaded], None] = lambda _: None,
) -> Loaded:
    """Stores the events of a file, each once. `tell` hears after each batch how far it is.

    The items before a fault are stored. Raises psycopg.Error or OSError when a server or the file system fails; load it again
    then.
    """
    loaded = Loaded(place=source.kind.place)
    totals = Counter[str]()
    rejected_bytes = 0
    try:
        # An iterator that is not read to its end ends here, and a process behind it with it.
        with closing(_items(stream, source, loaded, settings.max_decompressed_bytes)) as items:
            for positions, batch in _batches(items):
                letters = None
                if source.letters_of is not None:
                    letters = LetterBox(source.letters_of, positions, [one.kept for one in batch])
                report = ingest(
                    connection, source.holds, _Items(batch), source=source.name, settings=settings, letters=letters
                )
                totals.update({name: getattr(report, name) for name in _COUNTS}, rejected=len(report.rejected))
                loaded.received, loaded.inserted, loaded.duplicates, loaded.conflicts, loaded.rejected = (
                    totals[name] for name in (*_COUNTS, "rejected")
                )
                room = most_rejections_kept - len(loaded.rejections)
                loaded.rejections += [(positions[one.index], one.reason) for one in report.rejected[: max(room, 0)]]
                tell(loaded)
                kept = totals["conflicts"] + (totals["rejected"] if letters is not None else 0)
                if letters is not None:
                    rejected_bytes += sum(len(batch[one.index].kept) for one in report.rejected)
                if kept >= MOST_REJECTED or rejected_bytes >= MOST_REJECTED_BYTES:
                    raise BrokenFile(
                        f"expected fewer than {MOST_REJECTED} rejected items and conflicts, of {MOST_REJECTED_BYTES} bytes, "
                        f"came {totals['rejected']} and {totals['conflicts']}, of {rejected_bytes}; "
                        f"nothing after position {positions[-1]} was read"
                    )
    except BrokenFile as broken:
        loaded.reason = str(broken)
    return loaded


@dataclass(frozen=True, slots=True)
class _Item:
    """What was made of a row, and what is kept of it if it is rejected."""

    made: Made
    kept: bytes


class _Items(Sequence[bytes]):
    """The items of a batch. To ask for one that could not be made raises Malformed."""

    def __init__(self, items: Sequence[_Item]) -> None:
        self._items = items

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[bytes]: ...
    def __getitem__(self, index: int | slice) -> bytes | Sequence[bytes]:
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(len(self)))]
        made = self._items[index].made
        if isinstance(made, Malformed):
            raise made
        return made


def _items(stream: BinaryIO, source: Source, loaded: Loaded, limit_bytes: int) -> Generator[tuple[int, _Item]]:
    """The items of a file, each with its position. Raises BrokenFile after those before the fault."""
    content, packing = source.kind.content, source.kind.packing
    if content == "parquet":
        is_local = source.is_local and not packing
        plain = stream if is_local else unpacked(stream, packing)
        yield from _of_table(parquet_table(plain, is_local, limit_bytes), source, loaded)
    elif content == "csv":
        yield from _of_table(csv_table(unpacked(stream, packing), limit_bytes), source, loaded)
    else:
        rows = json_items(stream, source.kind, source.holds.name, limit_bytes, loaded.notes.append)
        yield from _of_json(rows, source, loaded)


def _of_json(rows: Iterator[tuple[int, bytes]], source: Source, loaded: Loaded) -> Iterator[tuple[int, _Item]]:
    if source.holds is not EVENTS:
        for position, item in rows:
            yield position, _Item(item, item)
        return
    row_format = source.row_format
    if row_format is None:
        first: list[tuple[int, bytes]] = []
        broken: BrokenFile | None = None
        try:
            first.extend(islice(rows, _LOOKED_AT))
        except BrokenFile as fault:
            broken = fault
        row_format = _format_of([item for _, item in first])
        rows = chain(first, rows if broken is None else _raising(broken))
    loaded.row_format = row_format
    maker = Maker(row_format)
    try:
        for position, item in rows:
            for made in maker.of_json(item):
                yield position, _Item(made, item if isinstance(made, Malformed) else made)
    finally:
        loaded.passed = maker.passed.count
        loaded.notes += maker.passed.said


def _raising(broken: BrokenFile) -> Iterator[tuple[int, bytes]]:
    raise broken
    yield  # An iterator that fails when it is asked.


def _format_of(items: Sequence[bytes]) -> Format:
    """By the first item that tells. Where none does, they are taken for events, whose rules say what is wrong with each."""
    for item in items:
        try:
            members = _object_of(item)
        except UNREADABLE_JSON:
            continue
        if formats_by_members(members):
            return chosen_format(members)
    return "events"


def _of_table(table: Table, source: Source, loaded: Loaded) -> Iterator[tuple[int, _Item]]:
    if not table.columns:
        return
    if source.holds is not EVENTS:
        _expect_known(table, source)
        item = item_of(table.columns)
        for position, row in table.rows:
            yield position, _kept(row, row if isinstance(row, Malformed) else _tried(partial(item, row)))
        return
    row_format = loaded.row_format = source.row_format or chosen_format(table.columns)
    if row_format == "events":
        _expect_known(table, source)
    maker = Maker(row_format)
    make = maker.of_table(table.columns, table.has_decimal_comma)
    try:
        for position, row in table.rows:
            for made in (row,) if isinstance(row, Malformed) else make(row):
                yield position, _kept(row, made)
    finally:
        loaded.passed = maker.passed.count
        loaded.notes += maker.passed.said


def _tried(made: Callable[[], bytes]) -> Made:
    try:
        return made()
    except Malformed as malformed:
        return malformed
    except UNWRITABLE as error:
        return Malformed(f"expected cells that JSON can hold, came {described(error)}")


def _kept(row: Any, made: Made) -> _Item:
    if not isinstance(made, Malformed):
        return _Item(made, made)
    # Of a row with too many cells there are none that we could name.
    try:
        return _Item(made, _encode(row.cells if isinstance(row, WrongCells) else row))
    except UNWRITABLE:
        return _Item(made, str(row).encode(errors="backslashreplace"))


def _expect_known(table: Table, source: Source) -> None:
    """Raises BrokenFile for a column of no member: stored without it, a count under another name would be lost in silence."""
    model = MEMBERS[source.holds.name]
    unknown = unknown_columns(table.columns, model)
    if unknown:
        shown = ", ".join(map(repr, unknown[:_SHOWN_COLUMNS])) + (", …" if len(unknown) > _SHOWN_COLUMNS else "")
        if len(unknown) == len(table.columns):
            # Without a header they are somebody's data, and the reason is kept.
            shown = "none of them"
        raise BrokenFile(
            f"expected columns of {', '.join(model.__struct_fields__)}, came {shown}. Nothing was stored. Rename such columns, "
            "leave them out, or name them extra.NAME or tags.NAME to keep them"
        )


def _batches(items: Iterator[tuple[int, _Item]]) -> Iterator[tuple[list[int], list[_Item]]]:
    """Batches of bounded length and size, with the positions of their items. Those before a fault come before its error."""
    broken: BrokenFile | None = None
    positions: list[int] = []
    batch: list[_Item] = []
    size = 0
    try:
        for position, item in items:
            positions.append(position)
            batch.append(item)
            size += len(item.kept)
            if len(batch) >= ITEMS_PER_BATCH or size >= _BYTES_PER_BATCH:
                yield positions, batch
                positions, batch, size = [], [], 0
    except BrokenFile as fault:
        broken = fault
    if batch:
        yield positions, batch
    if broken is not None:
        raise broken
