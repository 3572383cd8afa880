"""Counts what the recorder could not record, and logs it now and then: never an id, a key or a value."""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Literal, get_args

import redis

from usage_pipeline.recording.commands import Family

Reason = Literal["unreachable", "not tried", "refused", "wrong argument", "bookkeeping"]

LOG_INTERVAL_SECONDS = 5.0
_UNREACHABLE = (redis.ConnectionError, redis.TimeoutError, redis.exceptions.RedisClusterException, OSError)
_log = logging.getLogger(__name__)


class RecordFailures:
    """Failures per (what, reason), from any thread. What is a family, or "quota" and "pending" for the two reads.

    Reasons: "unreachable" (no connection or no answer: the record may have been written all the same), "not tried" (Redis
    had not answered the calls before: surely not written), "refused" (Redis answered with an error), "wrong argument",
    and "bookkeeping" (the counter was written, but not its announcement or odometer: not a dropped record).
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
        """Adds one. `detail` goes into the log, at most once in 5 s per (what, reason): it must hold no data."""
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
    """Whether Redis could not be reached, or answered that it will not."""
    return "unreachable" if isinstance(error, _UNREACHABLE) else "refused"
