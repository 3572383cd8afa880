"""The Redis side of the drain on one primary: it claims, reads and deletes keys. It does not decide what counts.

search.py finds the keys.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from typing import Any

import redis
from usage_recorder import keys as recorder_keys

from usage_pipeline import redis_keys as names
from usage_pipeline.drain.batch import Claimed, Held, TooLarge, WrongType, claimed_ms
from usage_pipeline.drain.families import Family
from usage_pipeline.drain.room import LARGEST_KEY_BYTES, Room
from usage_pipeline.drain.sources import scripts
from usage_pipeline.drain.sources.barrier import BarrierPlan, ServerFacts, pass_barrier, plan_barrier, read_facts
from usage_pipeline.drain.sources.search import KeySearch
from usage_pipeline.settings import Barrier
from usage_pipeline.storage.redis import (
    LONGEST_VALUE_BYTES,
    SLOT_ELSEWHERE,
    PinnedConnection,
    bulk_strings,
    command,
    one_by_one,
)

log = logging.getLogger(__name__)

# Keys in one send: enough that Redis seldom syncs its file, but so few that it serves writers in between (4 µs a key).
_KEYS_PER_SEND = 1_000
_KEYS_PER_UNLINK = 2_500
# Notes of settled batches: more than any drain settles in FORGETFUL_SECONDS (store.py).
_MOST_SETTLED, _SETTLED_BETWEEN_LOOKS = 2_000, 500

# Exact: see scripts.RENAME.
_MEMORY_USAGE, _EXACT = (b"MEMORY", b"USAGE"), (b"SAMPLES", b"0")
# A limit that nothing is below: measuring a queue of a million items would take long.
_UNMEASURED = -1


@dataclass(frozen=True, slots=True)
class OpenBatch:
    """A batch that was begun and not settled, and the server that it was claimed from."""

    batch_id: str
    server: str


class RedisSource(KeySearch):
    """One Redis primary, through one pinned connection. Close it after use.

    A barrier covers only the writes of its own connection. So a drain that claims one batch while it stores another uses two
    sources. In a cluster, `tag` is a hash tag of a slot of this primary. It ends the names of keys that concern only this
    primary.
    """

    def __init__(
        self, client: redis.Redis, barrier: Barrier, tag: str = "", scan_every: Mapping[str, float] | None = None
    ) -> None:
        super().__init__(PinnedConnection(client), tag, scan_every)
        self._is_sharded = not tag and self._refuses_two_slots()
        self._barrier: Barrier = barrier
        self._refused: list[bytes] = []
        self._settled = 0
        self.facts: ServerFacts
        self.plan: BarrierPlan
        self.plan_anew()

    def plan_anew(self) -> None:
        """Asks the server again, and chooses the barrier: a replica may have come since the last time."""
        self.facts = replace(read_facts(self._connection), is_sharded=self._is_sharded)
        self.plan = plan_barrier(self.facts, self._barrier)

    def now_ms(self) -> int:
        """The clock of Redis in epoch milliseconds. All drainers take the times of claims from this one clock."""
        return self._connection.now_ms()

    # batches

    def open_batch(self, family: str, batch_id: str) -> None:
        """Notes a batch. Must come before its first rename: by the note, the next drain finds what a crash left behind.

        A full Redis refuses the note. The drain goes on, because it makes room in Redis. Then only a scan finds the batch.
        """
        try:
            self._connection.call("HSET", names.open_batches(family), batch_id, self.facts.identity)
        except redis.OutOfMemoryError:
            log.warning("Redis has no memory left for notes of batches; the drain of %s goes on without them", family)

    def settle_batch(self, family: str, batch_id: str, *, is_stored: bool = False) -> None:
        """Removes the note of a batch that is done. If it was stored, and its claims deleted, notes which server did that.

        Redis keeps what it was told in its order, or forgets the end of it. If the server that the batch was claimed from wrote
        this note, then whoever has the note, be it started again or another one, has claim and deletion as well: nothing of
        the batch can come back. (In a cluster the note says nothing of other primaries.)
        """
        commands: list[tuple[Any, ...]] = [(b"HDEL", names.open_batches(family), batch_id)]
        if is_stored and not self.facts.is_cluster:
            settled = names.settled_batches(family)
            commands.append((b"HSET", settled, batch_id, self.facts.identity))
            if self._settled % _SETTLED_BETWEEN_LOOKS == 0:
                old = sorted(self._connection.call("HKEYS", settled))[:-_MOST_SETTLED]
                commands += [(b"HDEL", settled, *old)] if old else []
            self._settled += 1
        for reply in self._connection.pipeline(commands):
            # A full Redis refuses the note: then the batch is flagged if Redis changes within a minute.
            if isinstance(reply, redis.ResponseError) and not isinstance(reply, redis.OutOfMemoryError):
                raise reply

    def settled(self, family: str, batch_ids: Sequence[str]) -> dict[str, str]:
        """Of these batches those that are noted as settled here, and the server that settled each."""
        if self.facts.is_cluster:
            return {}
        notes = self._connection.call("HMGET", names.settled_batches(family), *batch_ids)
        return {batch_id: note.decode() for batch_id, note in zip(batch_ids, notes, strict=True) if note is not None}

    def open_batches(self, family: str) -> list[OpenBatch]:
        flat = self._connection.call("HGETALL", names.open_batches(family))
        return sorted(
            (OpenBatch(batch.decode(), server.decode()) for batch, server in zip(flat[::2], flat[1::2], strict=True)),
            key=lambda batch: batch.batch_id,
        )

    def claim(self, family: Family, batch_id: str, live: Sequence[bytes], sharers: int = 1) -> Held:
        """Renames live keys to claims of the batch, and reads as many as there is room for. A key that is gone is left out."""
        keys = list(dict.fromkeys(live))
        return self._rename_and_read(family, keys, names.claims(batch_id, keys), keys, sharers)

    def move(
        self,
        family: Family,
        from_batch: str,
        to_batch: str,
        held: Sequence[bytes],
        sharers: int = 1,
    ) -> Held:
        """Renames claims of `from_batch` to claims of `to_batch`, and reads as many as there is room for."""
        return self._rename_and_read(
            family, names.claims(from_batch, held), names.claims(to_batch, held), held, sharers
        )

    def read(self, family: Family, batch_id: str, held: Sequence[bytes], sharers: int = 1) -> Held:
        """Reads claims of the batch, as many as there is room for. A key that is gone is left out."""
        claimed = names.claims(batch_id, held)
        room = Room(sharers)
        return self._held(family, held, claimed, self._read(family, claimed, room), room)

    def sizes(self, batch_id: str, held: Sequence[bytes]) -> list[int]:
        """The bytes of claims of the batch in Redis. 0 for a key that is gone."""
        return [size for some in _chunks(names.claims(batch_id, held), _KEYS_PER_SEND) for size in self._sizes(some)]

    # the request event queue: one list, renamed as a whole

    def claim_queue(self, batch_id: str) -> bool:
        """Renames the live event queue to a claim of the batch. False if there is no queue, or if its slot is moving."""
        claimed = names.claim(batch_id, recorder_keys.EVENT_QUEUE)
        # Rename and PERSIST in one step: in a cluster the slot may move between two commands, and then the claim would expire.
        try:
            [renamed, _] = self._connection.call(
                "EVAL", scripts.RENAME, 2, recorder_keys.EVENT_QUEUE, claimed, _UNMEASURED
            )
        except SLOT_ELSEWHERE:
            return False
        was_renamed: bool = renamed != scripts.NOT_RENAMED
        return was_renamed

    def queue_length(self, batch_id: str) -> int | WrongType | TooLarge:
        """How many items the claimed queue has, 0 if it is gone. If it is not a list: its DUMP, if that can be read."""
        claimed = names.claim(batch_id, recorder_keys.EVENT_QUEUE)
        [length] = self._connection.pipeline([(b"LLEN", claimed)])
        if not isinstance(length, redis.ResponseError):
            return int(length)
        [size] = self._sizes([claimed])
        if size > LARGEST_KEY_BYTES:
            return TooLarge(self._connection.call("TYPE", claimed).decode(), size)
        return self._dump(claimed, length) or 0

    def item_sizes(self, batch_id: str, first: int, items: int) -> list[int]:
        """The bytes of up to `items` items of the claimed queue from position `first` on."""
        claimed = names.claim(batch_id, recorder_keys.EVENT_QUEUE)
        sizes: list[int] = self._connection.call("EVAL", scripts.ITEM_SIZES, 1, claimed, first, first + items - 1)
        return sizes

    def read_items(self, batch_id: str, first: int, items: int) -> list[bytes]:
        """Up to `items` items of the claimed queue from position `first` on."""
        claimed = names.claim(batch_id, recorder_keys.EVENT_QUEUE)
        found: list[bytes] = self._connection.call("LRANGE", claimed, first, first + items - 1)
        return found

    def beginning_of_item(self, batch_id: str, position: int) -> bytes:
        """Of an item that is too large, what of it is kept; nothing if it is gone."""
        claimed = names.claim(batch_id, recorder_keys.EVENT_QUEUE)
        beginning: bytes = self._connection.call("EVAL", scripts.BEGINNING, 1, claimed, position, LARGEST_KEY_BYTES)
        return beginning

    def barrier(self) -> bool:
        """Waits until all that was written or read on this connection is durable in Redis. False if that took too long."""
        return pass_barrier(self._connection, self.plan, names.BARRIER + self._tag)

    def age_ms(self, batch_id: str) -> int:
        """How long ago the batch was claimed, by the clock of Redis."""
        return self.now_ms() - claimed_ms(batch_id)

    def release(self, batch_id: str, held: Sequence[bytes]) -> bool:
        """Deletes exactly these claimed keys of the batch. True if that is durable.

        With the barrier by age, the call that deletes returns False. A later call, which finds nothing to delete, returns True
        when the deletion is old enough. If a crash undoes the deletion before, the batch is not marked as released yet, and a
        later call deletes its keys again.
        """
        deleted, is_refused = 0, False
        for some in _chunks(names.claims(batch_id, held), _KEYS_PER_UNLINK):
            for reply in self._connection.pipeline(self._unlink_commands(some)):
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
        for some in _chunks([names.token_cache(prefix).encode() for prefix in token_prefixes], _KEYS_PER_SEND):
            for reply in self._connection.pipeline(self._unlink_commands(some)):
                if isinstance(reply, redis.ResponseError):
                    raise reply

    def announce(self, family: Family, live: Sequence[bytes]) -> None:
        """Adds keys to the set of announced keys again, which `announced_keys` had emptied."""
        self._connection.call("SADD", recorder_keys.touched(family.name), *live)

    def take_refused(self) -> list[bytes]:
        """Keys that were not renamed since the last call, because their slot was moving."""
        refused, self._refused = self._refused, []
        return refused

    def close(self) -> None:
        self._connection.close()

    # inside

    def _rename_and_read(
        self,
        family: Family,
        current: Sequence[bytes],
        claimed: Sequence[bytes],
        live: Sequence[bytes],
        sharers: int,
    ) -> Held:
        """Renames keys from `current` to `claimed` names, and reads as many as there is room for.

        While the answers of one send are received, Redis works on the next one.
        """
        room, contents, asked = Room(sharers), list[Any](), 0
        keys, held, has_room = list[bytes](), list[bytes](), True
        sends = [slice(first, first + _KEYS_PER_SEND) for first in range(0, len(live), _KEYS_PER_SEND)]
        for number, some in enumerate(sends):
            if number == 0:
                self._connection.send(self._rename_commands(current[some], claimed[some], room))
            if number + 1 < len(sends):
                following = sends[number + 1]
                self._connection.send(self._rename_commands(current[following], claimed[following], room))
            are_ours, size = self._receive_renamed(live[some])
            contents += self._receive(asked)
            ours = [*compress(claimed[some], are_ours)]
            keys += compress(live[some], are_ours)
            held += ours
            has_room = has_room and size is not None and room.take_all(len(ours), size)
            asked = self._ask(family, ours) if has_room else 0
        contents += self._receive(asked)
        # Only after all answers have come: these, and a key of another type, need other commands on this connection.
        contents += self._read(family, held[len(contents) :], room)
        return self._held(family, keys, held, contents, room)

    def _read(self, family: Family, claimed: Sequence[bytes], room: Room) -> list[Any]:
        """The contents of the first claimed keys, as many as there is room for, but not of one that is too large."""
        contents: list[Any] = []
        for some in _chunks(claimed, _KEYS_PER_SEND):
            taken = some[: room.take(self._sizes(some))]
            contents += self._receive(self._ask(family, taken[:-1] if room.is_too_large else taken))
            if room.is_used_up:
                break
        return contents

    def _refuses_two_slots(self) -> bool:
        """Whether two keys of different slots are too many for one command: in a cluster, and behind a proxy of shards."""
        command = ("EVAL", "return 1", 2, names.BARRIER, recorder_keys.EVENT_QUEUE)
        return isinstance(self._connection.pipeline([command])[0], redis.exceptions.ClusterCrossSlotError)

    @property
    def _is_one_key_at_a_time(self) -> bool:
        """The keys of one command must share a slot. A key and its claim share one; two keys may not."""
        return self.facts.is_cluster or self.facts.is_sharded

    def _unlink_commands(self, held: Sequence[bytes]) -> list[tuple[bytes, ...]]:
        return [(b"UNLINK", name) for name in held] if self._is_one_key_at_a_time else [(b"UNLINK", *held)]

    def _keys_per_script(self) -> int:
        return 1 if self._is_one_key_at_a_time else _KEYS_PER_SEND

    def _rename_commands(self, current: Sequence[bytes], claimed: Sequence[bytes], room: Room) -> bytes:
        pairs = [name for pair in zip(bulk_strings(current), bulk_strings(claimed), strict=True) for name in pair]
        [limit] = bulk_strings([b"%d" % room.bytes_left])
        return b"".join(
            command(b"EVAL", scripts.RENAME, b"%d" % len(some), arguments=[*some, limit])
            for some in _chunks(pairs, 2 * self._keys_per_script())
        )

    def _receive_renamed(self, live: Sequence[bytes]) -> tuple[list[bool], int | None]:
        """Which keys of one send were renamed, and the bytes of all of them in Redis, None if Redis does not tell.

        The bytes are too few where they have no room.
        """
        replies = self._connection.receive(-(-len(live) // self._keys_per_script()))
        for number, reply in enumerate(replies):
            if isinstance(reply, SLOT_ELSEWHERE):
                # This script had one key: see _keys_per_script.
                replies[number] = [scripts.NOT_RENAMED, 0]
                self._refused.append(live[number])
            elif isinstance(reply, redis.ResponseError):
                # Replies to the next send may still come, so this connection is of no further use.
                self._connection.close()
                raise reply
        renamed = b"".join(letters for letters, _ in replies)
        sizes = [size for _, size in replies]
        are_ours = [was_renamed != ord(scripts.NOT_RENAMED) for was_renamed in renamed]
        return are_ours, None if min(sizes, default=0) < 0 else sum(sizes)

    def _sizes(self, claimed: Sequence[bytes]) -> list[int]:
        """The bytes of some keys in Redis. 0 where it does not tell: the key is gone, its slot moves, or a user may not ask."""
        packed = one_by_one(_MEMORY_USAGE, bulk_strings(claimed), _EXACT) if claimed else b""
        sizes = self._connection.replies(packed, len(claimed))
        for refusal in sizes:
            if isinstance(refusal, redis.ResponseError) and not isinstance(refusal, SLOT_ELSEWHERE):
                log.warning("Redis does not tell how large keys are: %s; one batch may need much memory", refusal)
                break
        return [size if type(size) is int else 0 for size in sizes]

    def _ask(self, family: Family, claimed: Sequence[bytes]) -> int:
        """Asks for the contents of claimed keys. Returns how many answers will come."""
        if claimed:
            self._connection.send(one_by_one([family.read_command], bulk_strings(claimed)))
        return len(claimed)

    def _receive(self, asked: int) -> list[Any]:
        return self._connection.receive(asked) if asked else []

    def _held(
        self, family: Family, keys: Sequence[bytes], claimed: Sequence[bytes], contents: list[Any], room: Room
    ) -> Held:
        """Claimed keys, of which the first have their contents, as a batch holds them."""
        claims = self._claims(keys, claimed, contents)
        if not room.is_too_large:
            return Held(claims, [*keys[len(contents) :]])
        key, name = keys[len(contents)], claimed[len(contents)]
        part = self._part(family, name)
        return Held([*claims, (key, part)] if part else claims, [*keys[len(contents) + 1 :]])

    def _part(self, family: Family, claimed: bytes) -> TooLarge | None:
        """What is read of a key that is too large. None if it is gone."""
        redis_type, size = self._connection.pipeline(
            [(b"TYPE", claimed), (b"MEMORY", b"USAGE", claimed, b"SAMPLES", b"0")]
        )
        for reply in (redis_type, size):
            if isinstance(reply, SLOT_ELSEWHERE) or reply is None:
                return None
        if redis_type != family.redis_type:
            return TooLarge(redis_type.decode(), size)
        if redis_type == b"string":
            beginning = self._connection.call("GETRANGE", claimed, 0, LARGEST_KEY_BYTES - 1)
            return TooLarge("string", size, beginning)
        members = [name.encode() for name in sorted(family.members)]
        lengths = self._connection.pipeline([(b"HSTRLEN", claimed, name) for name in members])
        short = [
            name
            for name, length in zip(members, lengths, strict=True)
            if isinstance(length, int) and 0 < length <= LONGEST_VALUE_BYTES
        ]
        values = self._connection.call("HMGET", claimed, *short) if short else []
        return TooLarge("hash", size, [text for pair in zip(short, values, strict=True) for text in pair])

    def _claims(self, keys: Sequence[bytes], claimed: Sequence[bytes], contents: Sequence[Any]) -> list[Claimed]:
        """The first claimed keys with their contents. A key without content is gone, and left out.

        A key of another type comes as a DUMP. A key whose slot is moving is left out, too: it stays claimed, and recovery gives
        it a batch of its own.
        """
        keys, claimed = keys[: len(contents)], claimed[: len(contents)]
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
        """The DUMP of a claimed key of another type. None if the key is gone. Raises any other error of Redis."""
        if not str(error).startswith("WRONGTYPE"):
            raise error
        dump, redis_type = self._connection.pipeline([(b"DUMP", claimed), (b"TYPE", claimed)])
        for reply in (dump, redis_type):
            if isinstance(reply, redis.ResponseError):
                raise reply
        return None if dump is None else WrongType(redis_type.decode(), dump)


def _chunks(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))
