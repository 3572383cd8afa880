"""The Redis side of the drain: finding, claiming, reading and releasing keys. It does not decide what counts."""

import logging
import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import redis

from usage_pipeline import redis_keys as names
from usage_pipeline.drain.batch import Claimed, WrongType, claimed_ms
from usage_pipeline.drain.families import TOKEN, Family
from usage_pipeline.drain.sources.barrier import BarrierPlan, ServerFacts, pass_barrier, plan_barrier, read_facts
from usage_pipeline.settings import Barrier
from usage_pipeline.storage.redis import SLOT_ELSEWHERE, PinnedConnection, bulk_strings, command, one_by_one

log = logging.getLogger(__name__)

# Keys in one send: many for few syncs of Redis's file, few enough for writers to be served in between (4 µs a key).
_KEYS_PER_SEND = 1_000
_SCAN_COUNT = 10_000
# A scan of the keyspace may take this share of the time; what it costs decides how long the next one waits.
_SCAN_SHARE = 0.05
_LONGEST_SCAN_PAUSE_SECONDS = 300
_KEYS_PER_UNLINK = 2_500
# A sample of each chunk that a scan finds.
_TTLS_PER_CHUNK = 100

# Renames pairs of keys and says for each whether it did: "1", or "0" for a key that is gone (drained by another, or expired)
# or whose claim is there. RENAMENX never overwrites a claim; PERSIST because RENAME carries the TTL along. A script, since
# Redis reads 16 KB at a time and `appendfsync always` syncs after each: single commands cost a sync per 30 keys. It only
# renames: reading in Lua as well would block Redis for 10 µs a key instead of 3.
_RENAME = b"""\
local renamed = {}
for i = 1, #KEYS, 2 do
  local reply = redis.pcall('RENAMENX', KEYS[i], KEYS[i + 1])
  if reply == 1 then
    redis.call('PERSIST', KEYS[i + 1])
  elseif type(reply) == 'table' and not string.find(reply.err, 'no such key', 1, true) then
    return reply
  end
  renamed[#renamed + 1] = reply == 1 and '1' or '0'
end
return table.concat(renamed)
"""
_NOT_RENAMED = b"0"


def drainer_name() -> str:
    """Host and process id: who drained, in the ledger and in logs."""
    return f"{socket.gethostname()}:{os.getpid()}"


@dataclass(frozen=True, slots=True)
class OpenBatch:
    """A batch that was begun and not settled, and the server that it was claimed from."""

    batch_id: str
    server: str


class RedisSource:
    """One Redis primary as the drain sees it, through one pinned connection. Close it after use.

    Writes and their barrier belong on one connection, so a drain that overlaps reading with storing uses two sources.
    In a cluster, `tag` is a hash tag of this primary's: it ends the names of what is kept for this primary alone.
    """

    def __init__(self, client: redis.Redis, barrier: Barrier, tag: str = "") -> None:
        self._connection = PinnedConnection(client)
        self._barrier: Barrier = barrier
        self._tag = tag
        self._refused: list[bytes] = []
        self._ttls_ms: list[int] = []
        self.facts: ServerFacts
        self.plan: BarrierPlan
        self.plan_anew()

    def plan_anew(self) -> None:
        """Chooses the barrier for what the server is now: a replica may have come since."""
        self.facts = read_facts(self._connection)
        self.plan = plan_barrier(self.facts, self._barrier)

    def now_ms(self) -> int:
        """Redis's clock in epoch milliseconds, so that all drainers stamp claims by one clock."""
        return self._connection.now_ms()

    # finding keys

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

    # batches

    def open_batch(self, family: str, batch_id: str) -> None:
        """Must come before the first rename of the batch: it is how the next drain finds what a crash left behind.

        A full Redis refuses it, and a drain is what makes room; then only a scan would find the batch.
        """
        try:
            self._connection.call("HSET", names.open_batches(family), batch_id, self.facts.identity)
        except redis.OutOfMemoryError:
            log.warning("Redis: its memory is full; %s drains without a note of its batches", family)

    def settle_batch(self, family: str, batch_id: str) -> None:
        """Forgets an open batch: nothing of it is left to do."""
        self._connection.call("HDEL", names.open_batches(family), batch_id)

    def open_batches(self, family: str) -> list[OpenBatch]:
        flat = self._connection.call("HGETALL", names.open_batches(family))
        return sorted(
            (OpenBatch(batch.decode(), server.decode()) for batch, server in zip(flat[::2], flat[1::2], strict=True)),
            key=lambda batch: batch.batch_id,
        )

    def claim(self, family: Family, batch_id: str, live: Sequence[bytes]) -> list[Claimed]:
        """Moves live keys under the batch and reads them; one that is gone already is left out."""
        keys = list(dict.fromkeys(live))
        return self._rename_and_read(family, keys, names.claims(batch_id, keys), keys)

    def move(self, family: Family, from_batch: str, to_batch: str, held: Sequence[bytes]) -> list[Claimed]:
        """Moves keys that `from_batch` holds under another batch and reads them."""
        return self._rename_and_read(family, names.claims(from_batch, held), names.claims(to_batch, held), held)

    def read(self, family: Family, batch_id: str, held: Sequence[bytes]) -> list[Claimed]:
        """Reads keys that the batch holds; one that is gone is left out."""
        claims = []
        for some in _chunks(held, _KEYS_PER_SEND):
            claimed = names.claims(batch_id, some)
            replies = self._connection.replies(one_by_one(family.read_command, bulk_strings(claimed)), len(claimed))
            claims += self._claims(some, claimed, replies)
        return claims

    # the request event queue: one list, renamed as a whole

    def claim_queue(self, batch_id: str) -> bool:
        """Moves the live event queue under the batch; False when there is none."""
        claimed = names.claim(batch_id, names.EVENT_QUEUE)
        # Both in one step: in a cluster the slot may leave between two commands, and the claim would expire.
        try:
            renamed: bytes = self._connection.call("EVAL", _RENAME, 2, names.EVENT_QUEUE, claimed)
        except SLOT_ELSEWHERE:
            return False
        return renamed != _NOT_RENAMED

    def queue_length(self, batch_id: str) -> int | WrongType:
        """How many items the claimed queue has; 0 when it is gone."""
        claimed = names.claim(batch_id, names.EVENT_QUEUE)
        [length] = self._connection.pipeline([(b"LLEN", claimed)])
        if isinstance(length, redis.ResponseError):
            return self._dump(claimed, length) or 0
        return int(length)

    def read_page(self, batch_id: str, first: int, items: int) -> list[bytes]:
        """Up to `items` items of the claimed queue from position `first` on."""
        claimed = names.claim(batch_id, names.EVENT_QUEUE)
        page: list[bytes] = self._connection.call("LRANGE", claimed, first, first + items - 1)
        return page

    def barrier(self) -> bool:
        """Whether all that was written or read on this connection is durable in Redis now."""
        return pass_barrier(self._connection, self.plan, names.BARRIER + self._tag)

    def age_ms(self, batch_id: str) -> int:
        """How long ago the batch was claimed, by Redis's clock."""
        return self.now_ms() - claimed_ms(batch_id)

    def release(self, batch_id: str, held: Sequence[bytes]) -> bool:
        """Deletes exactly these claimed keys of the batch; True when that is durable.

        Under the barrier by age the answer is False until a later call, with nothing left to delete, finds the deletion old
        enough. If a crash undoes the deletion meanwhile, the batch is not marked released and its keys go again.
        """
        deleted, is_refused = 0, False
        for some in _chunks(names.claims(batch_id, held), _KEYS_PER_UNLINK):
            # In a cluster the keys of one command must share a slot.
            commands = [(b"UNLINK", name) for name in some] if self.facts.is_cluster else [(b"UNLINK", *some)]
            for reply in self._connection.pipeline(commands):
                if isinstance(reply, SLOT_ELSEWHERE):
                    is_refused = True
                elif isinstance(reply, redis.ResponseError):
                    raise reply
                else:
                    deleted += reply
        if self.plan.minimum_age_ms:
            unlinked = names.unlinked(batch_id) + self._tag
            if deleted:
                self._connection.call("SET", unlinked, "1", "PX", self.plan.minimum_age_ms)
            if self._connection.call("EXISTS", unlinked):
                return False
        return not is_refused and self.barrier()

    def delete_token_caches(self, token_prefixes: Sequence[str]) -> None:
        """Deletes the cached copies of tokens whose totals changed (contracts §1.3, §1.7)."""
        for some in _chunks(token_prefixes, _KEYS_PER_SEND):
            self._connection.call("UNLINK", *(names.token_cache(prefix) for prefix in some))

    def announce(self, family: Family, live: Sequence[bytes]) -> None:
        """Puts keys back into the set that `announced_keys` empties."""
        self._connection.call("SADD", names.touched(family.name), *live)

    def take_refused(self) -> list[bytes]:
        """Keys that were not renamed since the last call, because their slot was on the move."""
        refused, self._refused = self._refused, []
        return refused

    def close(self) -> None:
        self._connection.close()

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

    def _rename_and_read(
        self, family: Family, current: Sequence[bytes], claimed: Sequence[bytes], live: Sequence[bytes]
    ) -> list[Claimed]:
        """Renames keys from `current` to `claimed` names and reads them; the next send is under way while one is read."""
        replies: list[Any] = []
        sent: Sequence[bytes] = ()
        for first in range(0, len(live), _KEYS_PER_SEND):
            some = slice(first, first + _KEYS_PER_SEND)
            self._connection.send(self._rename_and_read_commands(family, current[some], claimed[some]))
            if sent:
                replies += self._receive_renamed(sent)
            sent = live[some]
        if sent:
            replies += self._receive_renamed(sent)
        # Not before all is received: a key of another type takes a command of its own.
        return self._claims(live, claimed, replies)

    def _keys_per_script(self) -> int:
        """In a cluster the keys of one script must share a slot, as a key and its claim do."""
        return 1 if self.facts.is_cluster else _KEYS_PER_SEND

    def _rename_and_read_commands(self, family: Family, current: Sequence[bytes], claimed: Sequence[bytes]) -> bytes:
        claims = bulk_strings(claimed)
        pairs = [name for pair in zip(bulk_strings(current), claims, strict=True) for name in pair]
        scripts = (
            command(b"EVAL", _RENAME, b"%d" % len(some), arguments=some)
            for some in _chunks(pairs, 2 * self._keys_per_script())
        )
        return b"".join((*scripts, one_by_one(family.read_command, claims)))

    def _receive_renamed(self, live: Sequence[bytes]) -> list[Any]:
        """The contents of a send's keys; None for one that was not renamed."""
        scripts = -(-len(live) // self._keys_per_script())
        replies = self._connection.receive(scripts + len(live))
        for number, reply in enumerate(replies[:scripts]):
            if isinstance(reply, SLOT_ELSEWHERE):
                # Of one key: see _keys_per_script.
                replies[number] = _NOT_RENAMED
                self._refused.append(live[number])
            elif isinstance(reply, redis.ResponseError):
                # Replies to the next send may be under way: nothing else can be asked on this connection.
                self._connection.close()
                raise reply
        renamed, contents = b"".join(replies[:scripts]), replies[scripts:]
        if _NOT_RENAMED in renamed:
            return [
                None if was_renamed == ord(_NOT_RENAMED) else content
                for was_renamed, content in zip(renamed, contents, strict=True)
            ]
        return contents

    def _claims(self, keys: Sequence[bytes], claimed: Sequence[bytes], contents: Sequence[Any]) -> list[Claimed]:
        """Claimed keys and what they contain; a key of another type is dumped, one without content is gone.

        One whose slot is on the move is left out: it stays claimed, and recovery takes it up in a batch of its own.
        """
        if all(contents) and not any(isinstance(content, redis.ResponseError) for content in contents):
            return list(zip(keys, contents, strict=True))
        claims: list[Claimed] = []
        for key, name, content in zip(keys, claimed, contents, strict=True):
            if isinstance(content, SLOT_ELSEWHERE):
                continue
            if isinstance(content, redis.ResponseError):
                if dumped := self._dump(name, content):
                    claims.append((key, dumped))
            elif content or content == b"":
                claims.append((key, content))
        return claims

    def _dump(self, claimed: bytes, error: redis.ResponseError) -> WrongType | None:
        """A claimed key of another type; None when it is gone. Any other error of Redis is raised."""
        if not str(error).startswith("WRONGTYPE"):
            raise error
        dump, redis_type = self._connection.pipeline([(b"DUMP", claimed), (b"TYPE", claimed)])
        for reply in (dump, redis_type):
            if isinstance(reply, redis.ResponseError):
                raise reply
        return None if dump is None else WrongType(redis_type.decode(), dump)

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
            self._connection.call("SET", names.scan_pause(what) + self._tag, drainer_name(), "PX", max(pause_ms, 1))

    def _is_scan_due(self, what: str) -> bool:
        """A drainer always makes the first scan of its life; after that a scan waits for its share of the time."""
        return bool(self._connection.call("GET", names.scan_pause(what) + self._tag) != drainer_name().encode())


def _chunks(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))
