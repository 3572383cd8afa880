"""Counts the requests per day of a token in Redis, in one round trip, and makes the headers of its quota.

The quota is `usage.api_access_tokens.quota`.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from usage_pipeline.access.tokens import AccessToken
from usage_pipeline.redis_keys import token_quota
from usage_pipeline.rollups.calendar import day_window
from usage_pipeline.storage.quick_redis import AWAY, QuickRedis

# Longer than a day of 25 hours, whenever in it the first request came.
_TTL_SECONDS = 2 * 86_400
# In one step: of many requests at once exactly as many pass as are left. One that is refused is not counted, so that a quota
# that is raised during the day has room at once.
_TAKE_ONE = """\
local used = tonumber(redis.call('GET', KEYS[1]) or '0')
if used >= tonumber(ARGV[1]) then return -1 end
redis.call('SET', KEYS[1], string.format('%.0f', used + 1), 'EX', ARGV[2])
return used + 1
"""


@dataclass(frozen=True, slots=True)
class Share:
    """The quota of a token at one request. `remaining` are the requests of today after this one."""

    quota: int
    remaining: int
    day_seconds: int
    reset_seconds: int
    is_refused: bool = False

    @property
    def headers(self) -> dict[str, str]:
        return {
            "RateLimit-Limit": str(self.quota),
            "RateLimit-Remaining": str(self.remaining),
            "RateLimit-Reset": str(self.reset_seconds),
            "RateLimit-Policy": f"{self.quota};w={self.day_seconds}",
        }


class TokenQuota:
    """Counts requests of tokens that have a quota, per day of `timezone`. `clock` gives epoch seconds."""

    def __init__(self, cache: QuickRedis, timezone: ZoneInfo, clock: Callable[[], float] = time.time) -> None:
        self._cache = cache
        self._timezone = timezone
        self._clock = clock

    async def take_one(self, token: AccessToken) -> Share | None:
        """Counts one request. None without a quota, or when Redis does not answer: then the request is allowed.

        Raises RedisBusy when too many requests wait for Redis: this one is not counted, and must not be allowed.
        """
        if token.quota is None:
            return None
        quota = token.quota
        now = datetime.fromtimestamp(self._clock(), UTC)
        day = day_window(now.astimezone(self._timezone).date(), self._timezone)
        key = token_quota(token.token_id, day.day)
        used: Any = await self._cache.ask(lambda one: one.eval(_TAKE_ONE, 1, key, quota, _TTL_SECONDS))
        if used is AWAY:
            return None
        return Share(
            quota=quota,
            remaining=0 if used < 0 else quota - used,
            day_seconds=round((day.end - day.first).total_seconds()),
            reset_seconds=max(1, math.ceil((day.end - now).total_seconds())),
            is_refused=used < 0,
        )
