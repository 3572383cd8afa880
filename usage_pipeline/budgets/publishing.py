"""Writes to Redis how budgets stand, where gateways ask with the recorder's `check_budget`."""

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any

from usage_recorder import keys as recorder_keys
from usage_recorder.slot_owners import KeyCommand

from usage_pipeline.budgets.standing import Standing
from usage_pipeline.redis_keys import BUDGET_SCOPES
from usage_pipeline.settings import Settings
from usage_pipeline.storage.redis_cluster import send_all, server_or_cluster, translated_cluster_errors

# After the end of its period an answer blocks nobody. It stays for a while, so that clocks need not agree.
KEPT_AFTER = timedelta(hours=1)
_REDIS_SECONDS = 2.0


def publish(settings: Settings, standings: Iterable[Standing]) -> int:
    """Makes the answers in Redis those of all budgets, and returns how many scopes have one. Idempotent.

    Raises redis.RedisError, RedisUnavailable or OSError when Redis does not answer within seconds; the next call completes it.
    """
    by_scope: defaultdict[str, list[Standing]] = defaultdict(list)
    for standing in standings:
        by_scope[str(standing.budget.scope)].append(standing)
    hasty = settings.with_redis_timeout(_REDIS_SECONDS)
    with translated_cluster_errors(), server_or_cluster(hasty) as client:
        stale = {_text(scope) for scope in client.smembers(BUDGET_SCOPES)} - by_scope.keys()
        if by_scope:
            # Listed before they exist, and until they are gone: none is left behind.
            client.sadd(BUDGET_SCOPES, *by_scope)
        send_all(
            client,
            [
                *(_replacement(scope, some) for scope, some in by_scope.items()),
                *(KeyCommand(name, ("UNLINK", name)) for name in map(recorder_keys.budget, sorted(stale))),
            ],
        )
        if stale:
            client.srem(BUDGET_SCOPES, *stale)
    return len(by_scope)


def _replacement(scope: str, standings: Sequence[Standing]) -> KeyCommand:
    """One SET: nobody sees half of it, and it ends by itself."""
    key = recorder_keys.budget(scope)
    answer = json.dumps({"budgets": [_document(standing) for standing in standings]}, ensure_ascii=False)
    ends_at = max(standing.window.end for standing in standings) + KEPT_AFTER
    return KeyCommand(key, ("SET", key, answer, "PXAT", int(ends_at.timestamp() * 1000)))


def _document(standing: Standing) -> dict[str, Any]:
    budget = standing.budget
    return {
        "name": budget.name,
        "unit": budget.unit,
        "limit": format(budget.limit, "f"),
        "used": format(standing.used, "f"),
        "as_of": standing.as_of.timestamp(),
        "ends_at": standing.window.end.timestamp(),
    }


def _text(member: bytes | str) -> str:
    return member.decode() if isinstance(member, bytes) else member
