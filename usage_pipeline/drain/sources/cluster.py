"""The Redis side of the drain on a Redis Cluster: one RedisSource per primary. A command goes to the owner of its key's slot.

A batch may hold keys of several primaries. While a slot moves between two primaries, its keys cannot be claimed. They wait
for the next round.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from hashlib import blake2b
from typing import Any, TypeVar

import redis
from redis.crc import key_slot
from usage_recorder import keys as recorder_keys
from usage_recorder.slot_owners import KeyCommand, send_to_owners

from usage_pipeline import redis_keys as names
from usage_pipeline.drain.batch import Claimed, Held, TooLarge, WrongType, claimed_ms
from usage_pipeline.drain.families import Family
from usage_pipeline.drain.sources.barrier import BarrierPlan, ServerFacts, read_facts
from usage_pipeline.drain.sources.node import OpenBatch, RedisSource
from usage_pipeline.settings import Barrier, Settings
from usage_pipeline.storage.redis import PinnedConnection, client
from usage_pipeline.storage.redis_cluster import (
    AnyRedis,
    ClusterReader,
    cluster_client,
    translated_cluster_errors,
)
from usage_pipeline.storage.servers.eviction import worst

Argument = TypeVar("Argument")
Answer = TypeVar("Answer")

_SLOTS = 16_384


class ClusterSource:
    """All primaries of a Redis Cluster, each through one pinned connection. Close it after use.

    `facts` and `plan` are those of the whole cluster. They change when a primary changes. The owners of the slots are read once
    a round (`plan_anew`). If a slot moves after that, Redis refuses commands on its keys, and the drain does not take these
    keys for gone.
    """

    def __init__(
        self, cluster: redis.RedisCluster, barrier: Barrier, scan_every: Mapping[str, float] | None = None
    ) -> None:
        self._cluster = cluster
        self._barrier: Barrier = barrier
        self._scan_every = scan_every
        self._owners: list[str] = []
        self._primaries: dict[str, RedisSource] = {}
        self._threads = ThreadPoolExecutor(thread_name_prefix="primary")
        self.facts: ServerFacts
        self.plan: BarrierPlan
        try:
            self.plan_anew()
        except BaseException:
            self.close()
            raise

    @property
    def primaries(self) -> list[RedisSource]:
        return list(self._primaries.values())

    def plan_anew(self) -> None:
        """Reads which primary owns which slot, and chooses the barriers. Connects again if an owner has changed."""
        with translated_cluster_errors():
            self._cluster.nodes_manager.initialize()
        slots = self._cluster.nodes_manager.slots_cache
        owners = [slots[slot][0].name for slot in range(_SLOTS)]
        if owners == self._owners:
            for source in self.primaries:
                source.plan_anew()
        else:
            self._connect({slot_nodes[0].name: slot_nodes[0] for slot_nodes in slots.values()}, owners)
        identity = cluster_identity(source.facts.identity for source in self.primaries)
        for source in self.primaries:
            # The note of an open batch names the cluster. The next drain compares that name, whichever primary has the note.
            source.facts = replace(source.facts, identity=identity)
        eviction = worst(source.facts.eviction for source in self.primaries)
        self.facts = replace(self.primaries[0].facts, eviction=eviction)
        self.plan = _strictest(source.plan for source in self.primaries)

    def now_ms(self) -> int:
        """The clock of one primary in epoch milliseconds. All drainers use the same primary."""
        return self._owner(names.BARRIER).now_ms()

    def age_ms(self, batch_id: str) -> int:
        return self.now_ms() - claimed_ms(batch_id)

    # finding keys

    def live_keys(self, family: Family, chunk_keys: int) -> Iterator[list[bytes]]:
        """Like RedisSource: first the announced keys of all primaries, then a scan of each primary where one is due."""
        yield from self._owner(recorder_keys.touched(family.name)).announced_keys(family, chunk_keys)
        for source in self.primaries:
            yield from source.scanned_keys(family, chunk_keys)

    def take_ttls_ms(self) -> list[int]:
        return [ttl_ms for source in self.primaries for ttl_ms in source.take_ttls_ms()]

    def claimed_keys(self, family: Family) -> dict[str, list[bytes]]:
        """The claimed keys of all primaries by batch id. Each comes once, even if both sides of a moving slot show it."""
        found: dict[str, dict[bytes, None]] = {}
        for claimed in self._on_each(dict.fromkeys(self.primaries), lambda source, _: source.claimed_keys(family)):
            for batch_id, held in claimed.items():
                found.setdefault(batch_id, {}).update(dict.fromkeys(held))
        return {batch_id: list(held) for batch_id, held in found.items()}

    def finds_claims(self, family: Family) -> bool:
        return any(source.finds_claims(family) for source in self.primaries)

    # batches

    def open_batch(self, family: str, batch_id: str) -> None:
        self._owner(names.open_batches(family)).open_batch(family, batch_id)

    def settle_batch(self, family: str, batch_id: str, *, is_stored: bool = False) -> None:
        self._owner(names.open_batches(family)).settle_batch(family, batch_id, is_stored=is_stored)

    def settled(self, family: str, batch_ids: Sequence[str]) -> dict[str, str]:
        return self._owner(names.open_batches(family)).settled(family, batch_ids)

    def open_batches(self, family: str) -> list[OpenBatch]:
        return self._owner(names.open_batches(family)).open_batches(family)

    def claim(self, family: Family, batch_id: str, live: Sequence[bytes]) -> Held:
        """Like RedisSource. Keys whose slot is moving stay live, and are announced for the next round."""
        owned = self._by_owner(live)
        claims = self._on_each(owned, lambda source, keys: source.claim(family, batch_id, keys, len(owned)))
        refused = [key for source in owned for key in source.take_refused()]
        if refused:
            # A failed announcement need not fail the round: a scan finds the keys, too.
            with suppress(redis.ResponseError):
                self._owner(recorder_keys.touched(family.name)).announce(family, refused)
        return _together(claims)

    def move(self, family: Family, from_batch: str, to_batch: str, held: Sequence[bytes]) -> Held:
        owned = self._by_owner(held)
        claims = self._on_each(owned, lambda source, keys: source.move(family, from_batch, to_batch, keys, len(owned)))
        for source in owned:
            # Keys whose slot is moving stay in `from_batch`, for recovery.
            source.take_refused()
        return _together(claims)

    def read(self, family: Family, batch_id: str, held: Sequence[bytes]) -> Held:
        owned = self._by_owner(held)
        return _together(self._on_each(owned, lambda source, keys: source.read(family, batch_id, keys, len(owned))))

    def sizes(self, batch_id: str, held: Sequence[bytes]) -> list[int]:
        known: dict[bytes, int] = {}
        for source, keys in self._by_owner(held).items():
            known.update(zip(keys, source.sizes(batch_id, keys), strict=True))
        return [known[key] for key in held]

    # the request event queue: one list in one slot

    def claim_queue(self, batch_id: str) -> bool:
        return self._owner(recorder_keys.EVENT_QUEUE).claim_queue(batch_id)

    def queue_length(self, batch_id: str) -> int | WrongType | TooLarge:
        return self._owner(recorder_keys.EVENT_QUEUE).queue_length(batch_id)

    def item_sizes(self, batch_id: str, first: int, items: int) -> list[int]:
        return self._owner(recorder_keys.EVENT_QUEUE).item_sizes(batch_id, first, items)

    def read_items(self, batch_id: str, first: int, items: int) -> list[bytes]:
        return self._owner(recorder_keys.EVENT_QUEUE).read_items(batch_id, first, items)

    def beginning_of_item(self, batch_id: str, position: int) -> bytes:
        return self._owner(recorder_keys.EVENT_QUEUE).beginning_of_item(batch_id, position)

    # durability

    def barrier(self) -> bool:
        """Waits on all primaries at once until all that was written or read is durable. False if that took too long."""
        return all(self._on_each(dict.fromkeys(self.primaries), lambda source, _: source.barrier()))

    def release(self, batch_id: str, held: Sequence[bytes]) -> bool:
        """Deletes exactly these claimed keys of the batch. True if that is durable on every primary that had some.

        False, too, if the slot of a key was moving: nobody knows whether that key is gone, so the batch stays unreleased.
        """
        return all(self._on_each(self._by_owner(held), lambda source, keys: source.release(batch_id, keys)))

    def delete_token_caches(self, token_prefixes: Sequence[str]) -> None:
        """Like RedisSource. These deletions need not be durable, so the client may follow a slot that moves."""
        cached = [names.token_cache(prefix) for prefix in token_prefixes]
        with translated_cluster_errors():
            answers = send_to_owners(self._cluster, [KeyCommand(name, ("UNLINK", name)) for name in cached])
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer

    def close(self) -> None:
        self._threads.shutdown()
        for source in self.primaries:
            source.close()

    # inside

    def _connect(self, nodes: Mapping[str, Any], owners: list[str]) -> None:
        for source in self.primaries:
            source.close()
        self._owners, self._primaries = [], {}
        for name, node in nodes.items():
            # A tag for the last slot that it owns: when slots move away, the first ones go first.
            last_slot = max(slot for slot, owner in enumerate(owners) if owner == name)
            tag = f"{{{recorder_keys.number_in_slot(last_slot)}}}"
            self._primaries[name] = RedisSource(node.redis_connection, self._barrier, tag, self._scan_every)
        self._owners = owners

    def _owner(self, key: str | bytes) -> RedisSource:
        return self._primaries[self._owners[key_slot(key.encode() if isinstance(key, str) else key)]]

    def _by_owner(self, keys: Iterable[bytes]) -> dict[RedisSource, list[bytes]]:
        owned: dict[RedisSource, list[bytes]] = {}
        for key in keys:
            owned.setdefault(self._owner(key), []).append(key)
        return owned

    def _on_each(
        self, arguments: Mapping[RedisSource, Argument], do: Callable[[RedisSource, Argument], Answer]
    ) -> list[Answer]:
        """Calls `do` for several primaries at once. It raises an error of one only after all calls have ended."""
        doing = [self._threads.submit(do, source, argument) for source, argument in arguments.items()]
        wait(doing)
        return [done.result() for done in doing]


def cluster_identity(identities: Iterable[str]) -> str:
    """A short name for a cluster of these primaries. Their order does not matter."""
    return f"cluster {blake2b(chr(10).join(sorted(identities)).encode(), digest_size=16).hexdigest()}"


def server_identity(reader: PinnedConnection | ClusterReader) -> str:
    """The name of the server or the cluster in the ledger."""
    if isinstance(reader, PinnedConnection):
        return read_facts(reader).identity
    return cluster_identity(read_facts(primary).identity for primary in reader.primaries)


def _together(parts: Iterable[Held]) -> Held:
    keys, left = list[Claimed](), list[bytes]()
    for part in parts:
        keys += part.keys
        left += part.left
    return Held(keys, left)


def _strictest(plans: Iterable[BarrierPlan]) -> BarrierPlan:
    """The plan that the drain sees: the strictest of all. Each primary still passes its own barrier."""
    known = list(plans)
    return BarrierPlan(
        replicas=max(plan.replicas for plan in known),
        local_fsyncs=max(plan.local_fsyncs for plan in known),
        minimum_age_ms=max(plan.minimum_age_ms for plan in known),
        warning=next((plan.warning for plan in known if plan.warning), None),
    )


@contextmanager
def open_sources(
    settings: Settings, barrier: Barrier, scan_every: Mapping[str, float] | None = None
) -> Iterator[tuple[AnyRedis, RedisSource | ClusterSource, RedisSource | ClusterSource]]:
    """A client for single commands and the two sources of a drain (see FamilyDrain), for a server or a whole cluster.

    `scan_every`: see KeySearch. The server of REDIS_URL says whether it belongs to a cluster. Raises RedisUnavailable.
    """
    with ExitStack() as stack:
        pooled = stack.enter_context(closing(client(settings)))
        first = stack.enter_context(closing(RedisSource(pooled, barrier, scan_every=scan_every)))
        if first.facts.is_cluster:
            first.close()
            cluster = stack.enter_context(closing(cluster_client(settings)))
            claiming, releasing = (
                stack.enter_context(closing(ClusterSource(cluster, barrier, scan_every))) for _ in range(2)
            )
            yield cluster, claiming, releasing
        else:
            second = RedisSource(pooled, barrier, scan_every=scan_every)
            yield pooled, first, stack.enter_context(closing(second))
