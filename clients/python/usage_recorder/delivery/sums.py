"""Records that were not sent yet, summed by counter and day, and events one by one; bounded in number and bytes. No I/O."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from usage_recorder.commands import Record

# What Python needs for a record beside its texts, about.
_BYTES_OF_A_RECORD = 1_000


class Sums:
    """Not for several threads: its owner has a lock. Each entry has an id, under which a spool file knows it."""

    def __init__(self, most_entries: int, most_bytes: int) -> None:
        self._most_entries = most_entries
        self._most_bytes = most_bytes
        self._entries: OrderedDict[int, Record] = OrderedDict()
        self._ids: dict[object, int] = {}
        self._bytes = 0
        self._last_id = 0
        self.records = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, entry_id: int) -> Record:
        return self._entries[entry_id]

    def add(self, record: Record) -> int | None:
        """The id of the entry that has it now, or None if there is no room."""
        known = self._ids.get(record.place)
        if known is not None and (sum_of_both := self._entries[known].plus(record)) is not None:
            self._entries[known] = sum_of_both
            self.records += record.records
            return known
        if len(self._entries) >= self._most_entries or self._bytes + _size(record) > self._most_bytes:
            return None
        self._last_id += 1
        self._entries[self._last_id] = record
        if record.family != "event":
            self._ids[record.place] = self._last_id
        self._bytes += _size(record)
        self.records += record.records
        return self._last_id

    def remove(self, entry_id: int) -> None:
        record = self._entries.pop(entry_id)
        if self._ids.get(record.place) == entry_id:
            del self._ids[record.place]
        self._bytes -= _size(record)
        self.records -= record.records

    def entries(self) -> Iterator[tuple[int, Record]]:
        """The oldest first. Change nothing meanwhile."""
        return iter(self._entries.items())


def _size(record: Record) -> int:
    """By the key and the family's own text: these do not change when records are summed."""
    texts = record.names[0] if record.family == "event" else ""
    return _BYTES_OF_A_RECORD + 4 * (len(record.key) + len(texts))
