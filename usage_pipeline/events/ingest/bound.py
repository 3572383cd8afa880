"""Items of a sender who is bound (contracts §10): what is not said is the first value, what is of others is refused. Pure."""

from collections.abc import Callable, Mapping, Sequence
from typing import overload

import msgspec

from usage_pipeline import values
from usage_pipeline.bindings import NOT_SAID, Binding
from usage_pipeline.events.ingest.documents import LONG_ITEM_BYTES, Items, Json
from usage_pipeline.events.ingest.flat_objects import flat_object
from usage_pipeline.events.ingest.model import Item
from usage_pipeline.storage.copy_text import copy_line
from usage_pipeline.values import UNREADABLE_JSON, Malformed

# As it comes, and as formats of others are mapped that cannot know it.
_UNSAID = (b"null", b'""')
_UNKNOWN_JSON = b'"%b"' % NOT_SAID.encode()
_MOST_BYTES = len('""') + len(NOT_SAID) * len(r"\u0075")
_NONE = msgspec.Raw(b"null")
_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


class BoundSender:
    """A binding, for one kind of items.

    `owners` are the first columns of its rows, in their order; `written` decodes an item into its members as they are written.
    """

    def __init__(self, binding: Binding, owners: Sequence[str], written: Callable[[Json], msgspec.Struct]) -> None:
        self._owners = owners
        self._written = written
        self._members = {name: kept for name, kept in binding.bounds.members.items() if name in owners}
        fields = [(name, msgspec.Raw, _NONE) for name in self._members]
        # Nearly all items say whose they are: only that is looked for then.
        self._outline = msgspec.json.Decoder(msgspec.defstruct("Owners", fields, gc=False)).decode
        self._columns = {name: {copy_line((value,)) for value in kept} for name, kept in self._members.items()}

    def items(self, items: Items) -> Items:
        """The same items, each with the members that it does not say."""
        return _Filled(items, self)

    def filled(self, item: Json) -> Json:
        """The same item with the members that it does not say; what cannot be read stays as it is."""
        if not self._may_be_unsaid(item) or (said := self._said(item)) is None:
            return item
        missing = {name: kept[0] for name, kept in self._members.items() if _is_unsaid(said.get(name))}
        if not missing:
            return item
        pieces: list[bytes | memoryview] = []
        whole: dict[str, bytes | memoryview] = {**said, **{name: _encode(value) for name, value in missing.items()}}
        for name, text in whole.items():
            pieces += (b"," if pieces else b"{", _encode(name), b":", text)
        return b"".join((*pieces, b"}"))

    def _may_be_unsaid(self, item: Json) -> bool:
        if memoryview(item).nbytes > LONG_ITEM_BYTES:
            return True
        try:
            found = self._outline(item)
        except UNREADABLE_JSON:
            return False
        return any(_is_unsaid(memoryview(getattr(found, name))) for name in self._members)

    def _said(self, item: Json) -> Mapping[str, memoryview] | None:
        """The members of an item as they are written; None where it cannot be one."""
        whole = memoryview(item)
        if whole.nbytes > LONG_ITEM_BYTES:
            flat = flat_object(whole)
            return None if flat is None else {name: whole[slice(*place)] for name, place in flat.members.items()}
        try:
            found = self._written(item)
        except UNREADABLE_JSON:
            return None
        return {
            name: memoryview(raw)
            for name in found.__struct_fields__
            if (raw := getattr(found, name)) is not msgspec.UNSET
        }

    def expect_own(self, item: Item) -> None:
        """Raises Malformed for an item of others, by what would be stored of it."""
        place = 0
        for name in self._owners:
            end = item.payload.find(b"\t", place)
            if name in self._columns and (column := bytes(item.payload[place:end])) not in self._columns[name]:
                raise Malformed(f"{name}: expected one that this token is bound to, came {values.shown(column)}")
            place = end + 1


class _Filled(Sequence[Json]):
    def __init__(self, items: Items, sender: BoundSender) -> None:
        self._items = items
        self._sender = sender

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, index: int) -> Json: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Json]: ...
    def __getitem__(self, index: int | slice) -> Json | Sequence[Json]:
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(len(self)))]
        return self._sender.filled(self._items[index])


def _is_unsaid(text: memoryview | None) -> bool:
    if text is None or text in _UNSAID or text == _UNKNOWN_JSON:
        return True
    if text.nbytes > _MOST_BYTES or b"\\" not in bytes(text):
        return False
    try:
        # Each character may be written as an escape.
        return bool(_decode(text) == NOT_SAID)
    except UNREADABLE_JSON:
        return False
