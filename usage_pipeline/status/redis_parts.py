"""What the status says of Redis: the server, its memory, and what waits there. A few commands, each within seconds."""

from datetime import UTC, datetime

from usage_pipeline.alerting.reading import interval_seconds
from usage_pipeline.drain.readings.backlog import Backlog, read_backlog
from usage_pipeline.settings import Settings
from usage_pipeline.status.part import Part, size, span
from usage_pipeline.storage.redis_cluster import primaries, server_or_cluster, translated_cluster_errors
from usage_pipeline.storage.servers.eviction import read_eviction, worst
from usage_pipeline.storage.servers.redis_facts import read_info
from usage_pipeline.storage.servers.versions import redis_server
from usage_pipeline.texts import counted

SECONDS = 1.5
# A drain that is due every five seconds may be late by a tick without anything being wrong.
_LEAST_LATE_SECONDS = 60.0


def server_part(settings: Settings) -> Part:
    with translated_cluster_errors(), server_or_cluster(settings.with_redis_timeout(SECONDS)) as pooled:
        servers = primaries(pooled)
        named, memories = redis_server(servers[0]), [read_info(one, "memory") for one in servers]
        eviction = worst(read_eviction(one, memory) for one, memory in zip(servers, memories, strict=True))
    said = f"{'Valkey ' if named.name == 'Valkey' else ''}{named.version or 'of an unknown version'}"
    facts: dict[str, object] = {"version": named.version, "primaries": len(servers), "policy": eviction.policy}
    if not all(memories):
        return Part("Redis", "look", f"{said}; its user may not call INFO, so nothing more is known", facts)
    used, most = (sum(int(one.get(name, 0)) for one in memories) for name in ("used_memory", "maxmemory"))
    facts |= {"memory_bytes": used, "max_memory_bytes": most}
    said += f", {size(used)}{f' of {size(most)}' if most else ' (no limit)'}, {eviction.policy or 'unknown policy'}"
    if len(servers) > 1:
        said += f", {len(servers)} primaries"
    if eviction.loses_keys:
        return Part("Redis", "look", f"{said}: it throws counters away when full; set noeviction", facts)
    if most and used > 0.9 * most:
        return Part("Redis", "look", f"{said}: nearly full", facts)
    return Part("Redis", "ok", said, facts)


def backlog_part(settings: Settings, stored: dict[str, datetime | None] | None) -> Part:
    """`stored`: when each family last had a batch stored; None where PostgreSQL does not say."""
    now, families, late = datetime.now(UTC), [], []
    for one in read_backlog(settings, timeout_seconds=SECONDS):
        at = (stored or {}).get(one.family)
        age = None if at is None else max(0.0, (now - at).total_seconds())
        if is_late := _is_late(one, age, 2 * interval_seconds(settings, one.family), stored is not None):
            late.append(one.family)
        families.append(
            {
                "family": one.family,
                "waiting": one.waiting,
                "open_batches": one.open_batches,
                "oldest_open_seconds": round(one.oldest_open_seconds),
                "last_stored_at": at,
                "last_stored_seconds": None if age is None else round(age),
                "is_late": is_late,
            }
        )
    facts = {"families": families}
    if late:
        return Part("backlog", "look", f"late: {', '.join(late)}; does a drain run?", facts)
    waiting = sum(int(str(one["waiting"])) for one in families)
    return Part(
        "backlog", "ok", f"{counted(waiting, 'announced key waits', 'announced keys wait')}, none for long", facts
    )


def _is_late(one: Backlog, age: float | None, due: float, is_known: bool) -> bool:
    most = max(due, _LEAST_LATE_SECONDS)
    if one.open_batches and one.oldest_open_seconds > most:
        return True
    return bool(one.waiting) and is_known and (age is None or age > most)


def said_age(seconds: float | None) -> str:
    return "never" if seconds is None else f"{span(seconds)} ago"
