"""How much of what is claimed a drain holds in memory at once, whatever writers put into Redis. Pure.

A key that nobody counts in may have 500 MB, and there may be thousands of 10 MB. They must not end a drain, again and again.
"""

from collections.abc import Sequence

# The largest key or item that is read whole. A drain holds it in memory several times, so it is alone in its batch.
LARGEST_KEY_BYTES = 32 * 2**20
# What a batch, or a part of a page, holds of all others together. A usual batch has 2 MB, and small fields take twenty times as
# much memory here as in Redis.
LARGEST_BATCH_BYTES = 4 * 2**20


class Room:
    """The room of a batch, in bytes; `sharers` primaries of a cluster share it.

    The first key always has room, and one that is too large to be read whole is alone.
    """

    def __init__(self, sharers: int = 1) -> None:
        self.bytes_left = LARGEST_BATCH_BYTES // sharers
        self._is_empty = True
        self.is_used_up = False
        self.is_too_large = False

    def take_all(self, keys: int, size: int) -> bool:
        """Takes some keys of together `size` bytes, or none of them if they have no room."""
        if self.is_used_up or size > self.bytes_left:
            return False
        self.bytes_left -= size
        self._is_empty = self._is_empty and not keys
        return True

    def take(self, sizes: Sequence[int]) -> int:
        """How many of these keys have room, from the first one on. Once one has none, no later one has."""
        if self.is_used_up:
            return 0
        if self.take_all(len(sizes), sum(sizes)):
            return len(sizes)
        self.is_used_up = True
        if self._is_empty and sizes[0] > self.bytes_left:
            self.is_too_large = sizes[0] > LARGEST_KEY_BYTES
            return 1
        fitting = 0
        while sizes[fitting] <= self.bytes_left:
            self.bytes_left -= sizes[fitting]
            fitting += 1
        return fitting
