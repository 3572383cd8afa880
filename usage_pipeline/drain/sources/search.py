"""Finding keys on one Redis primary: those that the recorder announced, and scans of the keyspace on a slow beat."""

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress

import redis

from usage_pipeline import redis_keys as names
from usage_pipeline.drain.batch import claimed_ms
from usage_pipeline.drain.families import TOKEN, Family
from usage_pipeline.process import process_name
from usage_pipeline.storage.redis import PinnedConnection

_SCAN_COUNT = 10_000
# A scan of the keyspace may take this share of the time; what it costs decides how long the next one waits.
_SCAN_SHARE = 0.05
_LONGEST_SCAN_PAUSE_SECONDS = 300
# A sample of each chunk that a scan finds.
_TTLS_PER_CHUNK = 100


class KeySearch:
    """What may be drained on one primary, live or left claimed. In a cluster, `tag` is a hash tag of this primary's."""

    def __init__(self, connection: PinnedConnection, tag: str) -> None:
        self._connection = connection
        self._tag = tag
        self._ttls_ms: list[int] = []

    def live_keys(self, family: Family, chunk_keys: int) -> Iterator[list[bytes]]:
        """Chunks of keys that may be there to drain: first those the recorder announced, then, when due, a scan.

        A key may come twice, in different chunks only. Keys announced meanwhile are left to the next call, so that busy
        writers cannot keep it going forever. A name that is not of the family is dropped: it could not be told apart later.
        """
        yield from self.announced_keys(family, chunk_keys)
        yield from self.scanned_keys(family, chunk_keys)

    def announced_keys(self, family: Family, chunk_keys: int) -> Iterator[list[bytes]]:
        """The first part of `live_keys`: the set of touched keys, taken as a whole.

        A drain that does not come to its end leaves it to the next one. SPOP would be simpler, and take as much of Redis's
        time as the renaming.
        """
        for members in self._taken_keys(names.touched(family.name), names.taken(family.name), chunk_keys):
            # SSCAN answers with a few more than it was asked for, and with a small set as a whole.
            ours = [key for key in members if family.owns(key)]
            for first in range(0, len(ours), chunk_keys):
                yield ours[first : first + chunk_keys]

    def scanned_keys(self, family: Family, chunk_keys: int) -> Iterator[list[bytes]]:
        """The second part of `live_keys`. Of token keys it notes for how long some would have lived (`take_ttls_ms`)."""
        if self._is_scan_due(family.name):
            for found in self._scan(family.name, family.pattern, chunk_keys):
                if family.name == TOKEN.name:
                    self._note_ttls(found[:_TTLS_PER_CHUNK])
                yield found

    def take_ttls_ms(self) -> list[int]:
        """Times to live of scanned token keys since the last call, before they were claimed; keys without one are left out.

        Writers of their own let unread counts expire after two sync intervals.
        """
        ttls, self._ttls_ms = self._ttls_ms, []
        return ttls

    def claimed_keys(self, family: Family) -> dict[str, list[bytes]]:
        """All claimed keys of a family in the keyspace by batch id, as live names. A name that is not ours is left out.

        Each comes once, though SCAN may repeat itself: a batch with a key twice would count it twice.
        """
        found: dict[str, dict[bytes, None]] = {}
        for chunk in self._scan(f"claim:{family.name}", names.CLAIMS + b"*" + family.prefix + b"*", _SCAN_COUNT):
            for claimed in chunk:
                try:
                    batch_id, key = names.parse_claim(claimed)
                    claimed_ms(batch_id)
                except ValueError:
                    continue
                if key.startswith(family.prefix):
                    found.setdefault(batch_id, {})[key] = None
        return {batch_id: list(held) for batch_id, held in found.items()}

    def is_claim_scan_due(self, family: Family) -> bool:
        return self._is_scan_due(f"claim:{family.name}")

    # inside

    def _taken_keys(self, touched: str, taken: str, chunk_keys: int) -> Iterator[list[bytes]]:
        yield from self._members(taken, chunk_keys)
        # A drainer that another one has overtaken in the last set may have left its place.
        _, renamed = self._connection.pipeline([("UNLINK", names.place_in(taken)), ("RENAMENX", touched, taken)])
        if isinstance(renamed, redis.ResponseError):
            if "no such key" in str(renamed):
                return
            raise renamed
        yield from self._members(taken, chunk_keys)

    def _members(self, name: str, chunk_keys: int) -> Iterator[list[bytes]]:
        """The members of a set, which is deleted after the last; from where an earlier drain ended in the midst of it.

        Nobody changes such a set, so a cursor keeps its meaning. Should Redis lose it, a scan of the keyspace finds the rest.
        """
        place = names.place_in(name)
        cursor = self._connection.call("GET", place) or b"0"
        cursor, members = self._connection.call("SSCAN", name, cursor, "COUNT", chunk_keys)
        while members or cursor != b"0":
            yield members
            if cursor == b"0":
                self._connection.call("UNLINK", name, place)
                return
            with suppress(redis.OutOfMemoryError):
                self._connection.call("SET", place, cursor)
            cursor, members = self._connection.call("SSCAN", name, cursor, "COUNT", chunk_keys)

    def _note_ttls(self, keys: Sequence[bytes]) -> None:
        # In a cluster a slot that is on the move answers with an error.
        replies = self._connection.pipeline([(b"PTTL", key) for key in keys])
        self._ttls_ms += [reply for reply in replies if isinstance(reply, int) and reply >= 0]

    def _scan(self, what: str, pattern: bytes, chunk_keys: int) -> Iterator[list[bytes]]:
        cursor, pending, spent = b"0", dict[bytes, None](), 0.0
        while True:
            started = time.monotonic()
            cursor, found = self._connection.call("SCAN", cursor, "MATCH", pattern, "COUNT", _SCAN_COUNT)
            spent += time.monotonic() - started
            pending.update(dict.fromkeys(found))
            while len(pending) >= chunk_keys or (cursor == b"0" and pending):
                chunk = list(pending)[:chunk_keys]
                for key in chunk:
                    del pending[key]
                yield chunk
            if cursor == b"0":
                break
        pause_ms = min(int(spent / _SCAN_SHARE * 1000), _LONGEST_SCAN_PAUSE_SECONDS * 1000)
        with suppress(redis.OutOfMemoryError):
            self._connection.call("SET", names.scan_pause(what) + self._tag, process_name(), "PX", max(pause_ms, 1))

    def _is_scan_due(self, what: str) -> bool:
        """A drainer always makes the first scan of its life; after that a scan waits for its share of the time."""
        return bool(self._connection.call("GET", names.scan_pause(what) + self._tag) != process_name().encode())
