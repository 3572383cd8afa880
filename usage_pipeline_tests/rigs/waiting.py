"""Waiting on conditions."""

import time
from collections.abc import Callable

_POLL_SECONDS = 0.01


def wait_until(condition: Callable[[], object], what: str, timeout_seconds: float = 60) -> None:
    """Returns once the condition holds. Raises TimeoutError, which says what was waited for."""
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout_seconds:.0f} s in vain until {what}")
        time.sleep(_POLL_SECONDS)
