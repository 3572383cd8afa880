"""The usage of a token that waits in Redis and is not drained yet (contracts §1.3), over all server instances.

It counts only keys that a recorder noted as written. To find keys of other writers takes a scan of all keys, which is too
much for one token. For some milliseconds a batch that is being drained is neither in Redis nor in the totals.
"""

import re
from collections.abc import AsyncIterator
from typing import Any

import redis.asyncio
from usage_recorder import keys as recorder_keys

from usage_pipeline import redis_keys as keys
from usage_pipeline.drain.families import TOKEN, parse_token
from usage_pipeline.storage.redis import FIRST_NAMES, LONGEST_VALUE_BYTES, SHORT_NAMES, next_count
from usage_pipeline.values import Malformed, TimeWindow

_MEMBERS_PER_STEP = 5_000
_VALUES_PER_STEP = 200
# So many announced tokens are a drain that stands still; then nobody waits for this answer.
_MOST_STEPS = 400
_GLOB = re.compile(r"([*?\[\]\\])")


class TooManyAnnounced(Exception):
    """More keys are noted as written than one request may look through."""


async def pending_token_uses(client: redis.asyncio.Redis, token_id: str, window: TimeWindow) -> int:
    """Uses that wait in Redis, without values that a drain would refuse. Raises redis.RedisError, TooManyAnnounced."""
    pattern = _GLOB.sub(r"\\\1", recorder_keys.token_usage(token_id, "")) + "*"
    # In this order: a drain renames the one set to the other, and what it moves meanwhile is seen in one of them.
    names = [
        name
        for announced in (recorder_keys.touched(TOKEN.name), keys.taken(TOKEN.name))
        async for name in _members(client, announced, pattern)
    ]
    found: list[bytes] = sorted(set(names))
    uses = 0
    for first in range(0, len(found), _VALUES_PER_STEP):
        some = found[first : first + _VALUES_PER_STEP]
        async with client.pipeline(transaction=False) as pipe:
            for name in some:
                pipe.getrange(name, 0, LONGEST_VALUE_BYTES - 1)
            values = await pipe.execute(raise_on_error=False)
        uses += sum(_uses(name, value, token_id, window) for name, value in zip(some, values, strict=True))
    return uses


async def _members(client: redis.asyncio.Redis, announced: str, pattern: str) -> AsyncIterator[Any]:
    cursor, count = 0, FIRST_NAMES
    for _ in range(_MOST_STEPS):
        # Writers name the members: a long one may have 500 MB.
        words = ("SSCAN", cursor, "MATCH", pattern, "COUNT", count)
        cursor, members, _, size = await client.eval(SHORT_NAMES, 1, announced, *words)
        count = min(_MEMBERS_PER_STEP, next_count(count, size))
        for member in members:
            yield member
        if int(cursor) == 0:
            return
    raise TooManyAnnounced


def _uses(name: bytes, value: bytes | Exception, token_id: str, window: TimeWindow) -> int:
    """0 for a value that was drained between the two questions, is of another type, or is too long for usage."""
    if not value or not isinstance(value, bytes):
        return 0
    try:
        known_id, _, count, *_ = parse_token(name, value, window).row
    except Malformed:
        return 0
    # `a:b` begins like a key of the token `a`; the JSON's instanceId tells them apart.
    return count if known_id == token_id and isinstance(count, int) else 0
