"""Answers that are kept for a time: bounded in number and in bytes, whatever the API sends and whoever asks."""

import time
from collections import OrderedDict
from collections.abc import Callable


class KeptAnswers:
    """Encoded answers by the number of their post, each for `seconds`. The oldest go first. `timer` gives seconds."""

    def __init__(
        self, seconds: float, *, most: int, most_bytes: int, timer: Callable[[], float] = time.monotonic
    ) -> None:
        self._seconds = seconds
        self._most = most
        self._most_bytes = most_bytes
        self._timer = timer
        # In the order in which they end.
        self._kept: OrderedDict[int, tuple[float, bytes]] = OrderedDict()
        self.bytes = 0

    def get(self, post_id: int) -> bytes | None:
        """The answer, or None when there is none or it is too old."""
        until, answer = self._kept.get(post_id, (0.0, None))
        return answer if answer is not None and self._timer() < until else None

    def keep(self, post_id: int, answer: bytes) -> None:
        """Keeps the answer, in place of an earlier one. What is too old goes, and the oldest go while there is no room."""
        now = self._timer()
        if (earlier := self._kept.pop(post_id, None)) is not None:
            self.bytes -= len(earlier[1])
        self._kept[post_id] = now + self._seconds, answer
        self.bytes += len(answer)
        while self._kept and (self._is_too_much() or next(iter(self._kept.values()))[0] <= now):
            _, (_, oldest) = self._kept.popitem(last=False)
            self.bytes -= len(oldest)

    def _is_too_much(self) -> bool:
        return len(self._kept) > self._most or self.bytes > self._most_bytes
