"""Finds keys on one Redis primary: the keys that the recorder announced, and at intervals those that a scan finds."""

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
# Scans of all keys may take this share of the time. The longer a scan takes, the longer the next one waits.
_SCAN_SHARE = 0.05
_LONGEST_SCAN_PAUSE_SECONDS = 300
# A sample: so many keys of each chunk that a scan finds are asked for their time to live.
_TTLS_PER_CHUNK = 100


class KeySearch:
    """Finds live keys and claimed keys on one primary. In a cluster, `tag` is a hash tag of a slot of this primary."""

    def __init__(self, connection: PinnedConnection, tag: str) -> None:
        self._connection = connection
        self._tag = tag
        self._ttls_ms: list[int] = []

    def live_keys(self, family: Family, chunk_keys: int) -> Iterator[list[bytes]]:
        """Chunks of keys that may be there to drain: first the announced keys, then those of a scan if one is due.

        A key may come twice, but not in one chunk. Keys that are announced meanwhile wait for the next call, so that busy
        writers cannot keep this one going forever. Names that are not of the family are dropped: once claimed, they could not
        be told from its keys.
        """
        yield from self.announced_keys(family, chunk_keys)
        yield from self.scanned_keys(family, chunk_keys)

    def announced_keys(self, family: Family, chunk_keys: int) -> Iterator[list[bytes]]:
        """The first part of `live_keys`. It renames the set of announced keys as a whole, and reads that.

        If a drain stops early, the next one reads the rest of the set. SPOP would be simpler, but it would take as much of
        Redis's time as the renames of the keys.
        """
        for members in self._taken_keys(names.touched(family.name), names.taken(family.name), chunk_keys):
            # SSCAN may answer with a few more members than asked for, and answers with a small set as a whole.
            ours = [key for key in members if family.owns(key)]
            for first in range(0, len(ours), chunk_keys):
                yield ours[first : first + chunk_keys]

    def scanned_keys(self, family: Family, chunk_keys: int) -> Iterator[list[bytes]]:
        """The second part of `live_keys`. It notes the times to live of some token keys (`take_ttls_ms`)."""
        if self._is_scan_due(family.name):
            for found in self._scan(family.name, family.pattern, chunk_keys):
                if family.name == TOKEN.name:
                    self._note_ttls(found[:_TTLS_PER_CHUNK])
                yield found

    def take_ttls_ms(self) -> list[int]:
        """Times to live of token keys that were scanned since the last call, as they were before the claim.

        Keys without one are left out. Writers other than our recorder let unread counts expire after two sync intervals.
        """
        ttls, self._ttls_ms = self._ttls_ms, []
        return ttls

    def claimed_keys(self, family: Family) -> dict[str, list[bytes]]:
        """All claimed keys of a family by batch id, as live names. Names that the drain did not make are left out.

        Each key comes once, although SCAN may repeat it: a batch would count a repeated key twice.
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
        # A drainer that was overtaken by another one in the last set may have left its cursor behind.
        _, renamed = self._connection.pipeline([("UNLINK", names.place_in(taken)), ("RENAMENX", touched, taken)])
        if isinstance(renamed, redis.ResponseError):
            if "no such key" in str(renamed):
                return
            raise renamed
        yield from self._members(taken, chunk_keys)

    def _members(self, name: str, chunk_keys: int) -> Iterator[list[bytes]]:
        """The members of a set, from where an earlier drain stopped. After the last member the set is deleted.

        Nobody changes such a set, so a stored cursor stays valid. If Redis loses the set or the cursor, a scan finds the rest.
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
        # In a cluster, a key whose slot is moving has an error as its answer.
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
        """The first scan of a drainer is always due. After that a scan waits, as _SCAN_SHARE demands."""
        return bool(self._connection.call("GET", names.scan_pause(what) + self._tag) != process_name().encode())
