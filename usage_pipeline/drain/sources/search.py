"""Finds keys on one Redis primary: the keys that the recorder announced, and at intervals those that a scan finds."""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress

import redis
from usage_recorder import keys as recorder_keys

from usage_pipeline import redis_keys as names
from usage_pipeline.drain.batch import claimed_ms
from usage_pipeline.drain.families import TOKEN, Family
from usage_pipeline.process import process_name
from usage_pipeline.storage.redis import PinnedConnection

log = logging.getLogger(__name__)

_SCAN_COUNT = 10_000
# Scans of all keys may take this share of Redis's time, all kinds together: for live keys and for claims, of each family.
# The longer a scan takes, the longer the next one of its kind waits.
_SCAN_SHARE = 0.05
# How the share is divided. Token keys of other writers live for two sync intervals only. Claims are noted: only where Redis was
# too full for the note, a scan has to find them.
_WEIGHTS = {"token": 8, "api_key": 4, "provider": 4}
_WEIGHTS |= {f"claim:{family}": 1 for family in (*_WEIGHTS, "event")}
# A slice is a little shorter than its share of the time between two rounds, so that its pause is over when the next one begins.
_SLICE = 0.8
# A sample: so many keys of each chunk that a scan finds are asked for their time to live.
_TTLS_PER_CHUNK = 100


class KeySearch:
    """Finds live keys and claimed keys on one primary. In a cluster, `tag` is a hash tag of a slot of this primary.

    `scan_every`: seconds from round to round, by family. A scan then takes only its share of this time in each round, and the
    next round goes on where it ended: so a scan of millions of keys does not keep announced keys waiting. None: a scan that is
    due goes through all keys.
    """

    def __init__(self, connection: PinnedConnection, tag: str, scan_every: Mapping[str, float] | None = None) -> None:
        self._connection = connection
        self._tag = tag
        self._scan_every = scan_every
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
        for members in self._taken_keys(recorder_keys.touched(family.name), names.taken(family.name), chunk_keys):
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
        for chunk in self._scan(f"claim:{family.name}", _claims_of(family), _SCAN_COUNT, is_whole=True):
            for claimed in chunk:
                if held := _parse_claim(family, claimed):
                    batch_id, key = held
                    found.setdefault(batch_id, {})[key] = None
        return {batch_id: list(held) for batch_id, held in found.items()}

    def finds_claims(self, family: Family) -> bool:
        """Looks for claimed keys by a scan if one is due: whether there are some. Then `claimed_keys` finds all of them."""
        what = f"claim:{family.name}"
        if not self._is_scan_due(what):
            return False
        chunks = self._scan(what, _claims_of(family), _SCAN_COUNT)
        return any(_parse_claim(family, claimed) for chunk in chunks for claimed in chunk)

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
        Writers may put something else in its place: that is thrown away, and stops nobody's drain.
        """
        place = names.place_in(name)
        cursor = self._connection.call("GET", place) or b"0"
        while True:
            members = list[bytes]()
            try:
                while True:
                    cursor, found = self._connection.members_page(name, cursor, chunk_keys)
                    members += found
                    if cursor == b"0" or len(members) >= chunk_keys:
                        break
            except redis.ResponseError as error:
                if not str(error).startswith("WRONGTYPE"):
                    raise
                log.warning("%s: expected a set of announced keys, came another type; a scan finds the keys", name)
                self._connection.call("UNLINK", name, place)
                return
            if members:
                yield members
            if cursor == b"0":
                self._connection.call("UNLINK", name, place)
                return
            with suppress(redis.OutOfMemoryError):
                self._connection.call("SET", place, cursor)

    def _note_ttls(self, keys: Sequence[bytes]) -> None:
        # In a cluster, a key whose slot is moving has an error as its answer.
        replies = self._connection.pipeline([(b"PTTL", key) for key in keys])
        self._ttls_ms += [reply for reply in replies if isinstance(reply, int) and reply >= 0]

    def _scan(self, what: str, pattern: bytes, chunk_keys: int, *, is_whole: bool = False) -> Iterator[list[bytes]]:
        """Chunks of keys: all of them, or those from where the last scan of this kind ended, for as long as it may take."""
        place = names.scan_place(what) + self._tag
        share = _SCAN_SHARE * _WEIGHTS[what] / sum(_WEIGHTS.values())
        limit = float("inf")
        cursor = b"0"
        if self._scan_every is not None and not is_whole:
            limit = self._scan_every[what.removeprefix("claim:")] * share * _SLICE
            cursor = self._connection.call("GET", place) or cursor
        pending, spent = dict[bytes, None](), 0.0
        is_over = False
        while not is_over:
            started = time.monotonic()
            cursor, found = self._connection.scan_page(cursor, pattern, _SCAN_COUNT)
            spent += time.monotonic() - started
            pending.update(dict.fromkeys(found))
            is_over = cursor == b"0" or spent >= limit
            while len(pending) >= chunk_keys or (is_over and pending):
                chunk = list(pending)[:chunk_keys]
                for key in chunk:
                    del pending[key]
                yield chunk
        # Only now: a drain that stops before has not taken all keys that were found, and the next one finds the rest again.
        self._end_scan(what, cursor, spent / share)

    def _end_scan(self, what: str, cursor: bytes, pause_seconds: float) -> None:
        place = names.scan_place(what) + self._tag
        with suppress(redis.OutOfMemoryError):
            pause_ms = max(1, int(pause_seconds * 1000))
            self._connection.call("SET", names.scan_pause(what) + self._tag, process_name(), "PX", pause_ms)
            if cursor != b"0":
                self._connection.call("SET", place, cursor)
            elif self._scan_every is not None:
                self._connection.call("UNLINK", place)

    def _is_scan_due(self, what: str) -> bool:
        """The first scan of a drainer is always due. After that a scan waits, as _SCAN_SHARE demands."""
        return bool(self._connection.call("GET", names.scan_pause(what) + self._tag) != process_name().encode())


def _claims_of(family: Family) -> bytes:
    return names.CLAIMS + b"*" + family.prefix + b"*"


def _parse_claim(family: Family, claimed: bytes) -> tuple[str, bytes] | None:
    """Batch id and live name of a claimed key of the family. None for a name that the drain did not make."""
    try:
        batch_id, key = names.parse_claim(claimed)
        claimed_ms(batch_id)
    except ValueError:
        return None
    return (batch_id, key) if key.startswith(family.prefix) else None
