"""Counts what the recorder could not record, and logs it at intervals. It never logs an id, a key or a value."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Literal, get_args

import redis

from usage_recorder.commands import Family

Reason = Literal["unreachable", "not tried", "refused", "wrong argument", "bookkeeping"]

LOG_INTERVAL_SECONDS = 5.0
_UNREACHABLE = (redis.ConnectionError, redis.TimeoutError, redis.exceptions.RedisClusterException, OSError)
_log = logging.getLogger(__name__)


class RecordFailures:
    """Failures per (what, reason), from any thread. `what` is a family, or "quota" or "pending" for the two reads.

    Reasons:
    - "unreachable": there was no connection or no answer. The record may be written all the same.
    - "not tried": Redis had not answered the calls before. The record is surely not written.
    - "refused": Redis answered with an error.
    - "wrong argument": an argument could not be stored.
    - "bookkeeping": the counter is written, but its announcement or odometer is not. The record is not dropped.
    """

    def __init__(self, observe: Callable[[str, Reason], None] | None = None) -> None:
        self._observe = observe
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, Reason]] = Counter()
        self._logged_at: dict[tuple[str, Reason], float] = {}

    @property
    def by_reason(self) -> dict[tuple[str, Reason], int]:
        with self._lock:
            return dict(self._counts)

    @property
    def dropped(self) -> dict[Family, int]:
        counts = self.by_reason
        return {
            family: sum(n for (what, reason), n in counts.items() if what == family and reason != "bookkeeping")
            for family in get_args(Family)
        }

    def count(self, what: str, reason: Reason, detail: str) -> None:
        """Counts a failure. `detail` is logged, at most once in 5 s per (what, reason), so it must not contain data."""
        if self._observe is not None:
            self._observe(what, reason)
        now = time.monotonic()
        with self._lock:
            self._counts[what, reason] += 1
            total = self._counts[what, reason]
            if now - self._logged_at.get((what, reason), -LOG_INTERVAL_SECONDS) < LOG_INTERVAL_SECONDS:
                return
            self._logged_at[what, reason] = now
        _log.warning("recorder: %s: %s (%s); %d so far", what, reason, detail, total)


def redis_reason(error: Exception) -> Reason:
    """The reason of this error: Redis was not reached, or it refused."""
    return "unreachable" if isinstance(error, _UNREACHABLE) else "refused"
