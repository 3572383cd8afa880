"""Waiting on conditions: for tests and for benchmarks. The wheel has neither, and needs neither."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(
    condition: Callable[[], T],
    what: str,
    timeout_seconds: float = 60,
    *,
    poll_seconds: float = 0.01,
    log: Callable[[], str] | None = None,
) -> T:
    """What the condition returns once that is true. A condition that can no longer come true raises by itself.

    Raises TimeoutError, which says what was waited for, and what the log says by then.
    """
    deadline = time.monotonic() + timeout_seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(
                f"waited {timeout_seconds:.0f} s in vain: {what}" + (f"; the log says:\n{log()}" if log else "")
            )
        time.sleep(poll_seconds)
    return found
