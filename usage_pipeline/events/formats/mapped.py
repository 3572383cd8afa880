"""Items of another format as usage events, each made when it is asked for: nothing is kept of what was made. Pure; no I/O."""

from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar, overload

Item = TypeVar("Item")


class Mapped(Sequence[bytes], Generic[Item]):
    """Events that are made of items, in their order. To ask for one that cannot become an event raises Malformed."""

    def __init__(self, items: Sequence[Item], event_of: Callable[[Item], bytes]) -> None:
        self._items = items
        self._event_of = event_of

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> "Mapped[Item]": ...
    def __getitem__(self, index: int | slice) -> "bytes | Mapped[Item]":
        if isinstance(index, slice):
            return Mapped(self._items[index], self._event_of)
        return self._event_of(self._items[index])

    def portions(self, most: int) -> "Iterator[Mapped[Item]]":
        """The same, at most so many at a time; one without items where there are none."""
        for first in range(0, max(len(self), 1), most):
            yield self[first : first + most]
