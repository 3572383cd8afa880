"""Places for work that takes a while: a limit for all, and a fair share for each token."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from usage_pipeline.api.problems import unavailable


class Places:
    """At most so many `things` at once. More are turned away; the error is their present number and then `advice`.

    A holder may have as many places as it leaves free, and no more: alone it gets half of them, the second half of the rest. So
    there is a place for a holder that has none, however many the others ask for.
    """

    def __init__(self, most: int, things: str, advice: str) -> None:
        self._most = most
        self._things = things
        self._advice = advice
        self._held: Counter[str] = Counter()

    @contextmanager
    def one(self, holder: str) -> Iterator[None]:
        """A place until the end of the block. Raises Problem (503) when the holder has its share, or when all are taken."""
        held, free = self._held[holder], self._most - self._held.total()
        if held >= free:
            of_all = self._most - free
            raise unavailable(f"{held} {self._things} of this token are running, {of_all} of all; {self._advice}")
        self._held[holder] += 1
        try:
            yield
        finally:
            self._held[holder] -= 1
            if not self._held[holder]:
                del self._held[holder]
