"""Writes to Redis how budgets stand, where gateways ask with the recorder's `check_budget`."""

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import redis
from usage_recorder import keys as recorder_keys
from usage_recorder.slot_owners import KeyCommand

from usage_pipeline.budgets.standing import Standing
from usage_pipeline.redis_keys import BUDGET_SCOPES
from usage_pipeline.settings import Settings
from usage_pipeline.storage.postgres import first_line
from usage_pipeline.storage.redis_cluster import published_names, send_all, server_or_cluster, translated_cluster_errors

# After the end of its period an answer blocks nobody. It stays for a while, so that clocks need not agree.
KEPT_AFTER = timedelta(hours=1)
# It ends before any answer does that was published with it: no answer and a sign of life mean that there is no budget.
_ALIVE = KEPT_AFTER
_REDIS_SECONDS = 2.0


def publish(settings: Settings, standings: Iterable[Standing], gone: Iterable[str] = ()) -> int:
    """Makes the answers in Redis those of all budgets, and returns how many scopes have one. Idempotent.

    `gone` are scopes that had a budget before, as PostgreSQL knows; those that are listed in Redis need not be named.
    Raises redis.RedisError, RedisUnavailable or OSError when Redis does not answer within seconds, or refuses; the next call
    completes it.
    """
    by_scope: defaultdict[str, list[Standing]] = defaultdict(list)
    for standing in standings:
        by_scope[str(standing.budget.scope)].append(standing)
    hasty = settings.with_redis_timeout(_REDIS_SECONDS)
    now = datetime.now(UTC)
    with translated_cluster_errors(), server_or_cluster(hasty) as client:
        listed = published_names(client, BUDGET_SCOPES)
        stale = (listed | {scope.encode() for scope in gone}) - {scope.encode() for scope in by_scope}
        if by_scope:
            # Listed before they exist, and until they are gone: none is left behind.
            client.sadd(BUDGET_SCOPES, *by_scope)
        names = [recorder_keys.budget("").encode() + scope for scope in sorted(stale)]
        send_all(
            client,
            [
                *(_replacement(scope, some, now) for scope, some in by_scope.items()),
                *(KeyCommand(name, ("UNLINK", name)) for name in names),
            ],
        )
        if stale:
            client.srem(BUDGET_SCOPES, *stale)
        # When all of it is there.
        client.set(recorder_keys.budgets_as_of(), now.timestamp(), ex=_ALIVE)
    return len(by_scope)


def why_not_published(error: Exception) -> str:
    """Whether Redis was away or refused, and with which words."""
    if isinstance(error, redis.ResponseError):
        return f"Redis refused: {first_line(error).rstrip('.')}"
    return f"Redis does not answer: {first_line(error).rstrip('.')}"


def _replacement(scope: str, standings: Sequence[Standing], now: datetime) -> KeyCommand:
    """One SET: nobody sees half of it, and it ends by itself."""
    key = recorder_keys.budget(scope)
    answer = json.dumps({"budgets": [_document(standing) for standing in standings]}, ensure_ascii=False)
    ends_at = max(standing.window.end for standing in standings)
    # From now on, so that the clock of Redis may be wrong.
    kept = max(ends_at - now, timedelta(0)) + KEPT_AFTER
    return KeyCommand(key, ("SET", key, answer, "PX", kept // timedelta(milliseconds=1)))


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
