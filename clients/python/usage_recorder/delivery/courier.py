"""Sends what waits in an outbox from a thread, which begins with the first of it and ends with the last; and at the exit."""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from usage_recorder.delivery.outbox import Outbox
from usage_recorder.delivery.sends import Answer, Send

MOST_SENDS = 100
FIRST_PAUSE_SECONDS = 0.05
LONGEST_PAUSE_SECONDS = 2.0
EXIT_SECONDS = 2.0
"""How long the end of the process waits for Redis, for all recorders together."""
_log = logging.getLogger(__name__)


class Pace:
    """How many sends a portion has, and the pause after one that Redis did not take."""

    def __init__(self) -> None:
        self.sends = MOST_SENDS
        self.pause_seconds = FIRST_PAUSE_SECONDS

    def note(self, took_all: bool) -> float:
        """The pause before the next portion. A server that was too slow for a large one may do a small one."""
        if took_all:
            self.sends, self.pause_seconds = min(2 * self.sends, MOST_SENDS), FIRST_PAUSE_SECONDS
            return 0.0
        pause = self.pause_seconds
        self.sends, self.pause_seconds = max(self.sends // 2, 1), min(2 * pause, LONGEST_PAUSE_SECONDS)
        return pause

    def hurry(self) -> None:
        self.pause_seconds = FIRST_PAUSE_SECONDS


class AnyCourier(ABC):
    """Who has something to send is remembered until it is sent, even if nobody else remembers its recorder."""

    def __init__(self, outbox: Outbox) -> None:
        self.outbox = outbox
        self._is_at_exit = False

    @abstractmethod
    def forget_parent(self) -> None: ...

    def flush_at_exit(self, timeout_seconds: float) -> None:
        """Sends what it can within the time. If something is left, closes the outbox, which counts it."""
        if self._is_at_exit or self.outbox.is_closed:
            return
        self._is_at_exit = True
        try:
            self._send_at_exit(time.monotonic() + timeout_seconds)
        finally:
            self._is_at_exit = False
        if self.outbox.has_left():
            self.outbox.close()
        BUSY.discard(self)

    @abstractmethod
    def _send_at_exit(self, ends_at: float) -> None: ...


class Courier(AnyCourier):
    """For a sync recorder."""

    def __init__(self, outbox: Outbox, send: Callable[[Sequence[Send]], Sequence[Sequence[Answer]]]) -> None:
        super().__init__(outbox)
        self._send = send
        outbox.wake = self.ensure
        self.forget_parent()

    def forget_parent(self) -> None:
        """In a forked child there is no thread, and a lock may be held for ever."""
        self._lock = threading.RLock()
        self._hurry = threading.Event()
        self._thread: threading.Thread | None = None
        self._should_stop = False
        BUSY.discard(self)

    def ensure(self) -> None:
        """Starts the thread if there is none."""
        if (seconds := seconds_after_the_exit()) is not None:
            self.flush_at_exit(seconds)
            return
        with self._lock:
            if self._should_stop or (self._thread is not None and self._thread.is_alive()):
                return
            remember(self)
            thread = threading.Thread(target=self._run, name="usage-recorder", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # no more threads, or the interpreter ends
                _log.warning("recorder: no thread to send what waits: %s", error)
            else:
                self._thread = thread

    def flush(self, timeout_seconds: float) -> bool:
        """Tries at once. Whether nothing is left within the time."""
        if self.outbox.has_left():
            self._hurry.set()
            self.ensure()
        return self.outbox.wait_until_empty(timeout_seconds)

    def stop(self, timeout_seconds: float) -> None:
        with self._lock:
            self._should_stop = True
            thread = self._thread
        self._hurry.set()
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout_seconds)
        BUSY.discard(self)

    def _send_at_exit(self, ends_at: float) -> None:
        if self._thread is not None and self._thread.is_alive():
            self.flush(ends_at - time.monotonic())
        self.stop(max(ends_at - time.monotonic(), 0))
        # New threads may not start any more.
        deliver_all(self.outbox, self._send, ends_at)

    def _run(self) -> None:
        pace = Pace()
        while not self._should_stop:
            try:
                took_all = deliver(self.outbox, self._send, pace.sends)
            except Exception:
                _log.exception("recorder: a portion was not sent; it is tried again")
                took_all = False
            if took_all is None:
                with self._lock:
                    if not self.outbox.has_left():
                        self._thread = None
                        BUSY.discard(self)
                        return
                # It came just now, or waits for its spool file.
                took_all = False
            if self._hurry.wait(pace.note(took_all)):
                self._hurry.clear()
                pace.hurry()


def deliver(outbox: Outbox, send: Callable[[Sequence[Send]], Sequence[Sequence[Answer]]], most: int) -> bool | None:
    """Sends one portion. Whether Redis took all of it; None if there was nothing to send."""
    portion = outbox.portion(most)
    if not portion:
        return None
    answers = None
    try:
        answers = send(portion)
    except Exception:
        _log.exception("recorder: a portion was not sent; it is tried again")
    finally:
        took_all = outbox.end_portion(portion, answers)
    return took_all


def deliver_all(outbox: Outbox, send: Callable[[Sequence[Send]], Sequence[Sequence[Answer]]], ends_at: float) -> None:
    """Sends what is left from this thread, as long as there is time."""
    pace = Pace()
    while time.monotonic() < ends_at and (took_all := deliver(outbox, send, pace.sends)) is not None:
        time.sleep(max(min(pace.note(took_all), ends_at - time.monotonic()), 0))


BUSY: set[AnyCourier] = set()


# The child of multiprocessing whose finalizers flush.
_flushing_child = 0


def remember(courier: AnyCourier) -> None:
    """Flushes it at the end of the process. A forked child of multiprocessing runs no exit handlers, but finalizers."""
    global _flushing_child
    BUSY.add(courier)
    if (
        _flushing_child != os.getpid()
        and (process := sys.modules.get("multiprocessing.process")) is not None
        and process.parent_process() is not None
    ):
        from multiprocessing.util import Finalize

        Finalize(None, _flush_all, exitpriority=0)
        _flushing_child = os.getpid()


# When the end of the process has flushed all: until when it would have waited.
_ended_until: float | None = None


def seconds_after_the_exit() -> float | None:
    """The rest of EXIT_SECONDS for what is recorded after all were flushed, by another exit handler. None before."""
    return None if _ended_until is None else max(_ended_until - time.monotonic(), 0)


def _flush_all() -> None:
    global _ended_until
    ends_at = time.monotonic() + EXIT_SECONDS
    for courier in list(BUSY):
        courier.flush_at_exit(max(ends_at - time.monotonic(), 0))
    _ended_until = ends_at


atexit.register(_flush_all)
