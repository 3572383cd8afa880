"""The barrier: it waits until Redis has made durable what a connection wrote, before PostgreSQL relies on that.

DRAIN_BARRIER names the barrier, or leaves the choice to what the server says of itself: see docs/exactly-once.md.
"""

import logging
from dataclasses import dataclass, field

import redis

from usage_pipeline.redis_keys import BARRIER
from usage_pipeline.settings import Barrier
from usage_pipeline.storage.redis import PinnedConnection, RedisUnavailable
from usage_pipeline.storage.servers.eviction import Eviction, read_eviction
from usage_pipeline.storage.servers.redis_facts import read_hello, read_info
from usage_pipeline.storage.servers.supported import redis_fault

log = logging.getLogger(__name__)

_TIMEOUT_MS = 2_000
# While an fsync is running, a server with `appendfsync everysec` puts its writes off for up to two seconds, and looks ten
# times a second whether they are over. Until then even what it has answered is lost when its process is killed.
_EVERYSEC_LOSS_MS = 3_000


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What INFO and CONFIG say about one Redis server. This decides which barrier it needs."""

    identity: str
    version: tuple[int, ...]
    replicas: int
    has_aof: bool
    fsyncs_always: bool
    has_snapshots: bool
    is_cluster: bool = False
    eviction: Eviction = field(default_factory=lambda: Eviction("noeviction"))
    # It says that it is no cluster, and refuses a command on keys of two slots: a proxy stands before shards.
    is_sharded: bool = False
    # Whether the server told what the others are about; a user may not be allowed to ask.
    is_known: bool = True


@dataclass(frozen=True, slots=True)
class BarrierPlan:
    """What to wait for. All zero: do not wait. Either an answer is durable at once, or no deleted key can come back.

    `warning` says why no barrier is possible.
    """

    replicas: int = 0
    local_fsyncs: int = 0
    minimum_age_ms: int = 0
    warning: str | None = None


def read_facts(connection: PinnedConnection) -> ServerFacts:
    """Asks the server of the pinned connection. Where CONFIG or INFO are forbidden, it assumes the cautious answer.

    Raises RedisUnavailable for a replica, and for a server that is older than those that we support.
    """
    info = read_info(connection, "default")
    hello = read_hello(connection) if not info else {}
    version = _numbers(info.get("redis_version") or hello.get("version", ""))
    if fault := redis_fault(version):
        raise RedisUnavailable(f"Redis: {fault}")
    if "slave" in (info.get("role"), hello.get("role")) or hello.get("role") == "replica":
        raise RedisUnavailable(
            "Redis: expected a primary, came a replica, which takes no writes; name the primary in REDIS_URL"
        )
    settings: dict[bytes, bytes] = {}
    for name in ("appendfsync", "save"):
        try:
            answer = connection.call("CONFIG", "GET", name)
        except redis.ResponseError:
            continue
        settings.update(zip(answer[::2], answer[1::2], strict=True))
    return ServerFacts(
        identity=f"{info.get('run_id', '?')} {info.get('master_replid', '?')}",
        version=version,
        replicas=int(info.get("connected_slaves", "0")),
        has_aof=info.get("aof_enabled") == "1",
        fsyncs_always=settings.get(b"appendfsync") == b"always",
        has_snapshots=settings.get(b"save", b"unknown") != b"",
        is_cluster=info.get("cluster_enabled") == "1" or hello.get("mode") == "cluster",
        eviction=read_eviction(connection, info),
        is_known=bool(info),
    )


def plan_barrier(facts: ServerFacts, chosen: Barrier) -> BarrierPlan:
    """The barrier that the setting names, or with `auto` the one that the server needs. Pure."""
    if chosen == "none":
        return BarrierPlan()
    if chosen == "wait":
        return BarrierPlan(replicas=max(1, facts.replicas))
    if chosen == "waitaof":
        return BarrierPlan(replicas=facts.replicas, local_fsyncs=1)
    if chosen == "age":
        return BarrierPlan(minimum_age_ms=_EVERYSEC_LOSS_MS)
    if facts.is_sharded:
        return BarrierPlan(
            minimum_age_ms=_EVERYSEC_LOSS_MS,
            warning="Redis is a proxy before shards: it answers CROSSSLOT, and says that it is no cluster. The drain takes one "
            "key at a time, and stores what it claimed 3 s later, since a proxy cannot say what all shards have on disk.",
        )
    if not facts.is_known:
        return BarrierPlan(
            minimum_age_ms=_EVERYSEC_LOSS_MS,
            warning="Redis refuses INFO to this user, so nobody knows whether it has replicas or an append-only file. The "
            "drain stores what it claimed 3 s later, and waits for no replica. Allow +info, or set DRAIN_BARRIER.",
        )
    if facts.has_aof and not facts.fsyncs_always:
        if facts.version >= (7, 2):
            return BarrierPlan(replicas=facts.replicas, local_fsyncs=1)
        return BarrierPlan(replicas=facts.replicas, minimum_age_ms=_EVERYSEC_LOSS_MS)
    if facts.replicas or facts.has_aof or not facts.has_snapshots:
        return BarrierPlan(replicas=facts.replicas)
    return BarrierPlan(
        warning="Redis keeps only RDB snapshots, so a crash brings back counters that were already drained. "
        "Turn on appendonly, or turn snapshots off."
    )


def pass_barrier(connection: PinnedConnection, plan: BarrierPlan, key: str = BARRIER) -> bool:
    """Waits until everything that was written on this connection is durable. False if it takes too long.

    It writes `key` first, because recovery only reads, and Redis does not wait for a connection that wrote nothing.
    It does not wait for the age of a claim (`minimum_age_ms`): the drain leaves young claims to its next round.
    """
    if plan.replicas or plan.local_fsyncs:
        connection.call("SET", key, "1")
    if plan.replicas and int(connection.call("WAIT", plan.replicas, _TIMEOUT_MS)) < plan.replicas:
        log.warning("Redis: fewer than %d replicas confirmed the writes within %d ms", plan.replicas, _TIMEOUT_MS)
        return False
    if plan.local_fsyncs:
        [fsyncs, _] = connection.call("WAITAOF", plan.local_fsyncs, 0, _TIMEOUT_MS)
        if int(fsyncs) < plan.local_fsyncs:
            log.warning("Redis did not sync its append-only file within %d ms", _TIMEOUT_MS)
            return False
    return True


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())
