"""Whether Redis deletes keys when its memory is full. Then counters that are not drained yet are lost, and nobody is told.

Without a limit (`maxmemory 0`) Redis deletes nothing, whatever its policy: it grows until the machine has no more.
"""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass

import redis

from usage_pipeline.settings import Settings
from usage_pipeline.storage.redis_cluster import primaries, server_or_cluster, translated_cluster_errors
from usage_pipeline.storage.servers.redis_facts import AnyServer, read_info

_KEEPS_ALL = "noeviction"
_NAMES = ("maxmemory_policy", "maxmemory")


@dataclass(frozen=True, slots=True)
class Eviction:
    """The maxmemory-policy and the limit of a server. `policy` is None where the server tells neither."""

    policy: str | None
    most_memory_bytes: int = 0

    @property
    def loses_keys(self) -> bool:
        return self.policy not in (None, _KEEPS_ALL) and self.most_memory_bytes > 0

    @property
    def warning(self) -> str:
        """One sentence for a log; empty where nothing can be evicted."""
        if self.policy is None:
            return (
                "Redis does not tell its maxmemory-policy: it refuses INFO and CONFIG. It must be noeviction, or Redis may "
                "delete counters; to have it watched, allow +info (docs/operations.md)"
            )
        if self.loses_keys:
            return (
                f"Redis deletes keys when its memory is full (maxmemory-policy {self.policy}, maxmemory "
                f"{self.most_memory_bytes / 2**20:.0f} MB): counters that are not drained yet would be lost. "
                "Set maxmemory-policy to noeviction"
            )
        return ""


def eviction_of(facts: Mapping[str, str]) -> Eviction:
    """From INFO's section `memory`, or from settings with these names."""
    policy, most = (facts.get(name) for name in _NAMES)
    return Eviction(policy, int(most)) if policy and most is not None and most.isdigit() else Eviction(None)


def read_eviction(server: AnyServer, info: Mapping[str, str] | None = None) -> Eviction:
    """Asks one server: INFO (or takes `info`, if that was asked for already), then CONFIG. One of both is often forbidden."""
    found = eviction_of(read_info(server, "memory") if info is None else info)
    if found.policy is not None:
        return found
    settings: dict[str, str] = {}
    for name in _NAMES:
        with suppress(redis.ResponseError):
            settings[name] = _setting(server, name.replace("_", "-")) or ""
    return eviction_of(settings)


def read_evictions(settings: Settings) -> Eviction:
    """Of the server in REDIS_URL, or the worst of its cluster.

    Raises redis.RedisError, RedisUnavailable or OSError when Redis does not answer.
    """
    with translated_cluster_errors(), server_or_cluster(settings) as pooled:
        return worst(read_eviction(server) for server in primaries(pooled))


def worst(found: Iterable[Eviction]) -> Eviction:
    """One that loses keys, or else one that does not tell, or else any."""
    return max(found, key=lambda one: (one.loses_keys, one.policy is None))


def _setting(server: AnyServer, name: str) -> str | None:
    if isinstance(server, redis.Redis):
        value = server.config_get(name).get(name)
        return None if value is None else str(value)
    answer = server.call("CONFIG", "GET", name)
    return answer[1].decode() if answer else None
