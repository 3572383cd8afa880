"""The Redis side of the drain on one primary: it claims, reads and deletes keys. It does not decide what counts.

search.py finds the keys.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import redis

from usage_pipeline import redis_keys as names
from usage_pipeline.drain.batch import Claimed, WrongType, claimed_ms
from usage_pipeline.drain.families import Family
from usage_pipeline.drain.sources.barrier import BarrierPlan, ServerFacts, pass_barrier, plan_barrier, read_facts
from usage_pipeline.drain.sources.search import KeySearch
from usage_pipeline.settings import Barrier
from usage_pipeline.storage.redis import SLOT_ELSEWHERE, PinnedConnection, bulk_strings, command, one_by_one

log = logging.getLogger(__name__)

# Keys in one send: enough that Redis seldom syncs its file, but so few that it serves writers in between (4 µs a key).
_KEYS_PER_SEND = 1_000
_KEYS_PER_UNLINK = 2_500

# Renames pairs of keys. For each pair it answers "1" if it renamed, and "0" if the key is gone (another drainer took it, or it
# expired) or the claim exists already. RENAMENX never overwrites a claim. PERSIST is needed because a rename keeps the TTL. It
# is a script because Redis reads 16 KB at a time, and `appendfsync always` syncs after each read: single commands cost a sync
# per 30 keys. It only renames: if the script also read the keys, it would block Redis for 10 µs a key instead of 3.
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
        self._barrier: Barrier = barrier
        self._refused: list[bytes] = []
        self.facts: ServerFacts
        self.plan: BarrierPlan
        self.plan_anew()

    def plan_anew(self) -> None:
        """Asks the server again, and chooses the barrier: a replica may have come since the last time."""
        self.facts = read_facts(self._connection)
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

    def settle_batch(self, family: str, batch_id: str) -> None:
        """Removes the note of a batch that is done."""
        self._connection.call("HDEL", names.open_batches(family), batch_id)

    def open_batches(self, family: str) -> list[OpenBatch]:
        flat = self._connection.call("HGETALL", names.open_batches(family))
        return sorted(
            (OpenBatch(batch.decode(), server.decode()) for batch, server in zip(flat[::2], flat[1::2], strict=True)),
            key=lambda batch: batch.batch_id,
        )

    def claim(self, family: Family, batch_id: str, live: Sequence[bytes]) -> list[Claimed]:
        """Renames live keys to claims of the batch, and reads them. A key that is gone is left out."""
        keys = list(dict.fromkeys(live))
        return self._rename_and_read(family, keys, names.claims(batch_id, keys), keys)

    def move(self, family: Family, from_batch: str, to_batch: str, held: Sequence[bytes]) -> list[Claimed]:
        """Renames claims of `from_batch` to claims of `to_batch`, and reads them. A key that is gone is left out."""
        return self._rename_and_read(family, names.claims(from_batch, held), names.claims(to_batch, held), held)

    def read(self, family: Family, batch_id: str, held: Sequence[bytes]) -> list[Claimed]:
        """Reads claims of the batch. A key that is gone is left out."""
        claims = []
        for some in _chunks(held, _KEYS_PER_SEND):
            claimed = names.claims(batch_id, some)
            replies = self._connection.replies(one_by_one(family.read_command, bulk_strings(claimed)), len(claimed))
            claims += self._claims(some, claimed, replies)
        return claims

    # the request event queue: one list, renamed as a whole

    def claim_queue(self, batch_id: str) -> bool:
        """Renames the live event queue to a claim of the batch. False if there is no queue, or if its slot is moving."""
        claimed = names.claim(batch_id, names.EVENT_QUEUE)
        # Rename and PERSIST in one step: in a cluster the slot may move between two commands, and then the claim would expire.
        try:
            renamed: bytes = self._connection.call("EVAL", _RENAME, 2, names.EVENT_QUEUE, claimed)
        except SLOT_ELSEWHERE:
            return False
        return renamed != _NOT_RENAMED

    def queue_length(self, batch_id: str) -> int | WrongType:
        """How many items the claimed queue has, 0 if it is gone. If it is not a list: its DUMP."""
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
        """Adds keys to the set of announced keys again, which `announced_keys` had emptied."""
        self._connection.call("SADD", names.touched(family.name), *live)

    def take_refused(self) -> list[bytes]:
        """Keys that were not renamed since the last call, because their slot was moving."""
        refused, self._refused = self._refused, []
        return refused

    def close(self) -> None:
        self._connection.close()

    # inside

    def _rename_and_read(
        self, family: Family, current: Sequence[bytes], claimed: Sequence[bytes], live: Sequence[bytes]
    ) -> list[Claimed]:
        """Renames keys from `current` to `claimed` names, and reads them. Sends keys before it receives the last answers."""
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
        # Only after all answers have come: a key of another type needs another command on this connection.
        return self._claims(live, claimed, replies)

    def _keys_per_script(self) -> int:
        """In a cluster the keys of one script must share a slot. A key and its claim share one; two keys may not."""
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
        """The contents of the keys of one send. None for a key that was not renamed."""
        scripts = -(-len(live) // self._keys_per_script())
        replies = self._connection.receive(scripts + len(live))
        for number, reply in enumerate(replies[:scripts]):
            if isinstance(reply, SLOT_ELSEWHERE):
                # This script had one key: see _keys_per_script.
                replies[number] = _NOT_RENAMED
                self._refused.append(live[number])
            elif isinstance(reply, redis.ResponseError):
                # Replies to the next send may still come, so this connection is of no further use.
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
        """Claimed keys with their contents. A key of another type comes as a DUMP; a key without content is gone, and left out.

        A key whose slot is moving is left out, too: it stays claimed, and recovery gives it a batch of its own.
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
