"""Makes usage events of the rows of a file, by its format. Pure; no I/O.

A row without an id gets one that is made of what is stored of it, and of how many equal rows are before it in its file. So
equal rows of one file all count, and none of a file that is loaded again does, also in another spelling.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from hashlib import blake2b
from typing import Any, Final
from uuid import NAMESPACE_URL, uuid5

import msgspec

from usage_pipeline.events.files.cells import id_of, item_of
from usage_pipeline.events.files.names import Format
from usage_pipeline.events.files.packed import BrokenFile
from usage_pipeline.events.formats import langfuse, litellm, openai_usage
from usage_pipeline.events.formats.absent import present
from usage_pipeline.events.ingest.model import MAX_EVENT_BYTES, EventWindow, parse_event
from usage_pipeline.texts import counted
from usage_pipeline.values import UNREADABLE_JSON, Malformed, described

# Of rows without an id, each is remembered by a few bytes.
MOST_WITHOUT_ID = 2_000_000
_ROWS: Final = uuid5(NAMESPACE_URL, "urn:usage-pipeline:row")
_SHOWN_KINDS = 5
_encode = msgspec.json.Encoder().encode
_members_of = msgspec.json.Decoder(dict[str, Any]).decode
_raws_of = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_ID_FIRST = b'{"event_id"'
_NO_IDS = (b"null", b'""')
_NO_ID_FIRST = re.compile(rb'\{"event_id"\s*:\s*(?:null|"")\s*[,}]')
_ANY_ID = str(_ROWS)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Whether an event is too old changes, and its id does not.
_ALWAYS = EventWindow(datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC), "")

# Ids that people choose, so that they may be numbers: pandas makes floats of a column of them that has a gap.
_IDS_OF: dict[Format, tuple[str, ...]] = {
    "litellm-spend-logs": ("request_id", "end_user", "user", "team_id", "organization_id"),
    "langfuse": ("id", "userId", "user_id"),
}
# What JSON cannot hold: half a surrogate pair, numbers of hundreds of digits, values in each other too deeply.
UNWRITABLE = (TypeError, ValueError, RecursionError, OverflowError)

# What is made of a row: the JSON of an event, or why it is none.
Made = bytes | Malformed


@dataclass(slots=True)
class Passed:
    """Rows that are no events and that nobody misses, by what they are; and buckets that are not over."""

    kinds: Counter[str] = field(default_factory=Counter)
    not_over: int = 0

    @property
    def count(self) -> int:
        return self.kinds.total() + self.not_over

    @property
    def said(self) -> list[str]:
        """Sentences about them."""
        found = []
        if self.kinds:
            most = self.kinds.most_common(_SHOWN_KINDS)
            shown = ", ".join(f"{number:,} {kind}" for kind, number in most) + (
                ", …" if len(self.kinds) > len(most) else ""
            )
            found.append(f"{counted(self.kinds.total(), 'row is', 'rows are')} no request to a model: {shown}")
        if self.not_over:
            what = counted(self.not_over, "sum is", "sums are")
            found.append(f"{what} of a time that is not over, and still grows: load it again afterwards")
        return found


class Maker:
    """Makes the events of one file. Its rows come in their order."""

    def __init__(self, row_format: Format) -> None:
        self.passed = Passed()
        self._format = row_format
        self._seen: dict[int, int] = {}
        self._now = datetime.now(UTC)

    def of_table(
        self, columns: Sequence[str], has_decimal_comma: bool = False
    ) -> Callable[[Mapping[str, Any]], Iterator[Made]]:
        """How rows with these columns are made events."""
        if self._format != "events":
            return partial(self._of_row, is_of_table=True)
        item = item_of(columns, has_decimal_comma)
        return lambda row: iter((self._tried(lambda: self._with_id(item(row))),))

    def of_json(self, item: bytes) -> Iterator[Made]:
        """The events of a row that is JSON."""
        if self._format == "events":
            yield self._with_id(item)
            return
        if len(item) > MAX_EVENT_BYTES:
            yield Malformed(f"expected a row of at most {MAX_EVENT_BYTES} bytes, came {len(item)}")
            return
        try:
            row = _members_of(item)
        except UNREADABLE_JSON as error:
            if self._format == "litellm-spend-logs":
                # It reads some of what is no JSON.
                yield self._tried(lambda: litellm.event_of(item))
            else:
                yield Malformed(f"expected a JSON object, came one with a fault: {described(error)}")
            return
        yield from self._of_row(row)

    def _of_row(self, row: Mapping[str, Any], is_of_table: bool = False) -> Iterator[Made]:
        cells = present(row)
        try:
            for name in _IDS_OF.get(self._format, ()):
                # A text of JSON is as it was given. A number is of a column that became one, in any kind of file.
                if name in cells and (is_of_table or isinstance(cells[name], float)):
                    cells[name] = id_of(name, cells[name])
        except Malformed as malformed:
            yield malformed
            return
        if self._format == "litellm-spend-logs":
            yield self._tried(lambda: litellm.event_of(litellm.spend_log_item(cells)))
        elif self._format == "langfuse":
            try:
                yield self._tried(lambda: _encode(langfuse.event_of(cells)))
            except langfuse.NoCall as kind:
                self.passed.kinds[str(kind)] += 1
        else:
            yield from self._sums(cells)

    def _sums(self, cells: Mapping[str, Any]) -> Iterator[Made]:
        try:
            for result in openai_usage.results_in(cells):
                try:
                    event, grouping = openai_usage.event_of(result, self._now)
                    said = "\0".join(grouping).encode(errors="backslashreplace")
                    yield self._tried(partial(_encode, {"event_id": self._id(said), **event}))
                except openai_usage.NotOver:
                    self.passed.not_over += 1
                except openai_usage.NoRequest as kind:
                    self.passed.kinds[str(kind)] += 1
                except Malformed as malformed:
                    yield malformed
        except Malformed as malformed:
            yield malformed

    @staticmethod
    def _tried(made: Callable[[], bytes]) -> Made:
        try:
            return made()
        except Malformed as malformed:
            return malformed
        except UNWRITABLE as error:
            return Malformed(f"expected cells that JSON can hold, came {described(error)}")

    def _with_id(self, item: bytes) -> bytes:
        """The event with an id, if it has none: null or an empty text is none, as in CSV.

        What is no JSON object stays as it is: the rules of events refuse it.
        """
        if item.startswith(_ID_FIRST) and not _NO_ID_FIRST.match(item):
            return item
        try:
            members = _raws_of(item)
        except UNREADABLE_JSON:
            return item
        if (given := members.pop("event_id", None)) is not None and bytes(given) not in _NO_IDS:
            return item
        named = _encode({"event_id": _ANY_ID, **members})
        try:
            stored = parse_event(named, _ALWAYS)
        except Malformed:
            # It is rejected. Its dead letter may be put right, and then counts once.
            said = _encode(dict(sorted(members.items())))
        else:
            said = b"%b\0%d" % (bytes(stored.wide_payload()), _microseconds(stored.event_time))
        return named.replace(_ANY_ID.encode(), self._id(said).encode(), 1)

    def _id(self, said: bytes) -> str:
        digest = blake2b(said, digest_size=16).digest()
        key = int.from_bytes(digest[:8])
        before = self._seen.get(key, 0)
        if not before and len(self._seen) >= MOST_WITHOUT_ID:
            raise BrokenFile(f"expected at most {MOST_WITHOUT_ID} rows without an id, came more. Load it in parts")
        self._seen[key] = before + 1
        return str(uuid5(_ROWS, f"{self._format}\0{digest.hex()}\0{before}"))


def _microseconds(at: datetime | None) -> int:
    # Events have a time; only archives have none.
    return 0 if at is None else (at - _EPOCH) // timedelta(microseconds=1)
