"""Saves the callers of the recorder from waiting while Redis answers nobody."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

# An outage: this many calls in a row had no answer, for this long. A shorter pause of a busy server is no outage: a record
# that is not tried is lost, but a record that waits may still be written.
FAILURES_OF_AN_OUTAGE = 10
SECONDS_OF_AN_OUTAGE = 1.0
# During an outage, one call in this many seconds tries whether Redis is back.
PROBE_SECONDS = 0.1


class Outage:
    """Whether a call may ask Redis now, from any thread. During an outage only probes may, one in PROBE_SECONDS."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._failures = 0
        self._failing_since = 0.0
        self._answered_at = clock()
        self._next_probe_at = 0.0

    def begin(self) -> float | None:
        """The time at which a call begins, for `failed`. None if the call must not ask Redis now."""
        now = self._clock()
        if self._failures < FAILURES_OF_AN_OUTAGE or now - self._failing_since < SECONDS_OF_AN_OUTAGE:
            return now
        with self._lock:
            if now < self._next_probe_at:
                return None
            self._next_probe_at = now + PROBE_SECONDS
            return now

    def answered(self) -> None:
        """Notes that Redis answered, maybe with an error."""
        self._answered_at = self._clock()
        self._failures = 0

    def failed(self, began_at: float) -> None:
        """Notes that a call had no answer. A call that began before the last answer does not count."""
        with self._lock:
            if began_at >= self._answered_at:
                if not self._failures:
                    self._failing_since = began_at
                self._failures += 1
                self._next_probe_at = self._clock() + PROBE_SECONDS
