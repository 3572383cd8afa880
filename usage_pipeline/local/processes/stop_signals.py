"""Turns Ctrl-C, SIGTERM and a closed terminal into a flag, so that no signal interrupts a start or a clean-up half-way."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self


class StopRequestedError(Exception):
    """Someone asked this process to stop while it was in `StopSignals.interruptible()`, or called `check()` after."""


class StopSignals:
    """Notes SIGINT, SIGTERM and SIGHUP from entry to exit. Works in the main thread only (ValueError elsewhere)."""

    def __init__(self) -> None:
        self._requested = threading.Event()
        self._raises = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # `nohup` ignores SIGHUP on purpose; a script's `&` ignores SIGINT by default, and may send it all the same.
            if signal.getsignal(number) is not signal.SIG_IGN or number is not signal.SIGHUP:
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._requested.set()
        if self._raises:
            self._raises = False
            raise StopRequestedError

    @property
    def requested(self) -> bool:
        return self._requested.is_set()

    def check(self) -> None:
        """Raise StopRequestedError when a stop was asked for."""
        if self.requested:
            raise StopRequestedError

    def wait(self, seconds: float) -> bool:
        """Wait so many seconds, or until somebody asks to stop. Returns whether somebody did."""
        return self._requested.wait(seconds)

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Let a signal raise StopRequestedError inside. It is for steps that may take long and leave nothing half done."""
        self._raises = True
        try:
            self.check()
            yield
        finally:
            self._raises = False
