"""Items of another format as usage events, each made when it is asked for: nothing is kept of what was made. Pure; no I/O."""

from collections.abc import Callable, Sequence
from typing import overload

from usage_pipeline.events.ingest.documents import Items, Json


class Mapped(Sequence[bytes]):
    """Events that are made of items, in their order. To ask for one that cannot become an event raises Malformed."""

    def __init__(self, items: Items, event_of: Callable[[Json], bytes]) -> None:
        self._items = items
        self._event_of = event_of

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[bytes]: ...
    def __getitem__(self, index: int | slice) -> bytes | Sequence[bytes]:
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(len(self)))]
        return self._event_of(self._items[index])
