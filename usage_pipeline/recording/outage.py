"""Keeps the recorder's callers from waiting for a Redis that does not answer anybody."""

import threading
import time
from collections.abc import Callable

# So many calls in a row without an answer, for so long, are an outage. A shorter pause of a busy server is none: records
# that are not tried are lost, while those that wait may still get through.
FAILURES_OF_AN_OUTAGE = 10
SECONDS_OF_AN_OUTAGE = 1.0
# During an outage one call in so many seconds asks Redis whether it is back.
PROBE_SECONDS = 0.1


class Outage:
    """Whether Redis is worth asking, from any thread. Between two probes of an outage it is not."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._failures = 0
        self._failing_since = 0.0
        self._answered_at = clock()
        self._next_probe_at = 0.0

    def begin(self) -> float | None:
        """The time at which a call begins, for `failed`; None when Redis should not be asked now."""
        now = self._clock()
        if self._failures < FAILURES_OF_AN_OUTAGE or now - self._failing_since < SECONDS_OF_AN_OUTAGE:
            return now
        with self._lock:
            if now < self._next_probe_at:
                return None
            self._next_probe_at = now + PROBE_SECONDS
            return now

    def answered(self) -> None:
        """Redis answered, be it with an error."""
        self._answered_at = self._clock()
        self._failures = 0

    def failed(self, began_at: float) -> None:
        """There was no answer. A call that began before the last answer says nothing about now."""
        with self._lock:
            if began_at >= self._answered_at:
                if not self._failures:
                    self._failing_since = began_at
                self._failures += 1
                self._next_probe_at = self._clock() + PROBE_SECONDS
