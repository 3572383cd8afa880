"""Copies quotas from `usage.api_key_quotas` into Redis, where the recorder's check reads them (contracts §1.6, §2)."""

from collections.abc import Sequence

import psycopg
from usage_recorder import keys as recorder_keys
from usage_recorder.quota import LIMITS
from usage_recorder.slot_owners import KeyCommand

from usage_pipeline.storage.redis_cluster import AnyRedis, published_names, send_all
from usage_pipeline.storage.sql import load

PUBLISHED_IDS = f"{recorder_keys.NAMESPACE}quota_ids"
_IDS_PER_SEND = 1_000

# Replaces a hash in one step. It is a script, because a transaction in a Redis Cluster cannot span the slots of many hashes.
_REPLACE = """\
redis.call('DEL', KEYS[1])
return #ARGV == 0 or redis.pcall('HSET', KEYS[1], unpack(ARGV))
"""


def publish_quotas(connection: psycopg.Connection, client: AnyRedis) -> int:
    """Makes the quota hashes in Redis equal to `usage.api_key_quotas`, and returns how many there are. Idempotent.

    A hash is replaced in one step, so a check never sees half of it. PUBLISHED_IDS lists an id before its hash exists, and
    until the hash is deleted. Raises psycopg.Error and redis.RedisError. What was published by then stays, and the next call
    completes it.
    """
    rows = connection.execute(load("drain/select_api_key_quotas")).fetchall()
    stale = published_names(client, PUBLISHED_IDS) - {row[0].encode() for row in rows}
    for first in range(0, len(rows), _IDS_PER_SEND):
        some = rows[first : first + _IDS_PER_SEND]
        client.sadd(PUBLISHED_IDS, *(api_key_id for api_key_id, *_ in some))
        send_all(client, [_replacement(recorder_keys.quota(api_key_id), limits) for api_key_id, *limits in some])
    if stale:
        names = [recorder_keys.quota("").encode() + api_key_id for api_key_id in stale]
        send_all(client, [KeyCommand(name, ("UNLINK", name)) for name in names])
        client.srem(PUBLISHED_IDS, *stale)
    return len(rows)


def _replacement(key: str, limits: Sequence[int | None]) -> KeyCommand:
    known = ((name, limit) for name, limit in zip(LIMITS, limits, strict=True) if limit is not None)
    fields: list[str | int] = [word for pair in known for word in pair]
    return KeyCommand(key, ("EVAL", _REPLACE, 1, key, *fields))
