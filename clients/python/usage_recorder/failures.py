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

Reason = Literal["wrong argument", "refused", "no room", "too old", "unsent", "bookkeeping", "unreachable", "not tried"]

LOG_INTERVAL_SECONDS = 5.0
_UNREACHABLE = (redis.ConnectionError, redis.TimeoutError, redis.exceptions.RedisClusterException, OSError)
_log = logging.getLogger(__name__)


class RecordFailures:
    """Failures per (what, reason), from any thread. `what` is a family, or "quota", "budget" or "pending" for the reads.

    Reasons why a record is dropped:
    - "wrong argument": an argument could not be stored.
    - "refused": Redis answered with an error that time does not mend.
    - "no room": Redis was away for so long that the room for waiting records was full.
    - "too old": a record had no answer for six days. Redis may not know its number any more, so it is not sent again.
    - "unsent": the recorder was closed, or the process ended, before Redis took the record.

    A record with "bookkeeping" is not dropped: its counter is written, but not its announcement, its odometer, or its line in
    the spool file. A read without an answer is "unreachable", and "not tried" while Redis answers nobody.
    """

    def __init__(self, observe: Callable[[str, Reason], None] | None = None) -> None:
        self._observe = observe
        self.begin_anew()

    def begin_anew(self) -> None:
        """Also in a forked child, where another thread of the parent may have held the lock. A signal handler may read."""
        self._lock = threading.RLock()
        self._counts: Counter[tuple[str, Reason]] = Counter()
        self._logged_at: dict[tuple[str, Reason], float] = {}
        self._observer_logged_at = -LOG_INTERVAL_SECONDS

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

    def count(self, what: str, reason: Reason, detail: str, times: int = 1) -> None:
        """Counts failures. `detail` is logged, at most once in 5 s per (what, reason), so it must not contain data."""
        for _ in range(times):
            self._tell(what, reason)
        now = time.monotonic()
        with self._lock:
            self._counts[what, reason] += times
            total = self._counts[what, reason]
            if now - self._logged_at.get((what, reason), -LOG_INTERVAL_SECONDS) < LOG_INTERVAL_SECONDS:
                return
            self._logged_at[what, reason] = now
        _log.warning("recorder: %s: %s (%s); %d so far", what, reason, detail, total)

    def _tell(self, what: str, reason: Reason) -> None:
        try:
            if self._observe is not None:
                self._observe(what, reason)
        except Exception:
            # It is called in the middle of the bookkeeping of sends, and in requests: neither may end with it.
            now = time.monotonic()
            if now - self._observer_logged_at >= LOG_INTERVAL_SECONDS:
                self._observer_logged_at = now
                _log.exception("recorder: on_failure raised an error; the recorder goes on")


def redis_reason(error: Exception) -> Reason:
    """The reason of this error: Redis was not reached, or it refused."""
    return "unreachable" if isinstance(error, _UNREACHABLE) else "refused"
