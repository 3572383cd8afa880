"""When a request to the external API is retried, and after how long (contracts §4). Pure: no clock, no waiting, no request.

These are the only retries: httpx and Dagster do not add others.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx

from usage_pipeline.settings import Settings

FIRST_WAIT_SECONDS = 2.0
# With many tries, waits that double would grow beyond any use.
LONGEST_WAIT_SECONDS = 30.0
# So much of a wait is added at most, by chance, so that those who failed together do not come back together.
JITTER_SHARE = 0.25
# Who is asked to wait longer (Retry-After) gives up at once: to ask earlier would be impolite, and somebody waits for us.
LONGEST_RETRY_AFTER_SECONDS = 10.0

_RETRIED_STATUSES = frozenset({408, 425, 429})
# Also a server that breaks off in the middle of its answer, or answers with what is no HTTP. Everything else that httpx
# raises is ours (a protocol that it does not speak), and stays so.
_RETRIED_ERRORS = (
    TimeoutError,
    httpx.TimeoutException,
    httpx.NetworkError,
    httpx.RemoteProtocolError,
    httpx.ProxyError,
)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """The number of tries, and the time for each try, from the connection to the last byte of the answer."""

    tries: int = 3
    timeout_seconds: float = 5.0

    @classmethod
    def of(cls, settings: Settings) -> "RetryPolicy":
        """The policy of EXTERNAL_API_MAX_RETRIES and EXTERNAL_API_TIMEOUT."""
        return cls(settings.external_api_max_retries, settings.external_api_timeout / 1000)

    @property
    def most_seconds(self) -> float:
        """The longest time of all tries and waits together: 35 s by default, 22.5 s without a Retry-After."""
        waits = (max(_most_wait(number), LONGEST_RETRY_AFTER_SECONDS) for number in range(2, self.tries + 1))
        return self.tries * self.timeout_seconds + sum(waits)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a try gave no post. The reason has no address, and no text of the answer."""

    reason: str
    is_retried: bool
    retry_after_seconds: float | None = None


def failure_of_status(status: int, retry_after: str | None, now: datetime) -> Failure:
    """The failure of a status other than 200. `retry_after` is that header, `now` an aware time."""
    is_retried = status in _RETRIED_STATUSES or 500 <= status <= 599
    wait = retry_after_seconds(retry_after, now) if is_retried and retry_after is not None else None
    return Failure(f"answered {status}", is_retried, wait)


def failure_of_error(error: Exception) -> Failure:
    """The failure of an error of httpx, or of a time-out."""
    if isinstance(error, TimeoutError | httpx.TimeoutException):
        return Failure("gave no whole answer in time", is_retried=True)
    return Failure(f"failed to answer: {type(error).__name__}", isinstance(error, _RETRIED_ERRORS))


def retry_after_seconds(header: str, now: datetime) -> float | None:
    """The seconds from `now` that a Retry-After header asks for, in either of its forms. None when it cannot be read."""
    text = header.strip()
    if text.isascii() and text.isdigit():
        # So many digits that no float holds them ask for longer than anybody waits.
        return float(text) if len(text) <= 15 else float("inf")
    try:
        at = parsedate_to_datetime(text)
    except (TypeError, ValueError, OverflowError):
        return None
    aware = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
    return max(0.0, (aware - now).total_seconds())


def wait_before(number: int, failure: Failure, policy: RetryPolicy, random: Callable[[], float]) -> float | None:
    """Seconds to wait before try `number` (2, 3, …) after this failure; None when there is no such try.

    2 s, 4 s, 8 s … plus a random part of that; or the time of Retry-After if it is longer. `random` returns a value in [0, 1).
    """
    if not failure.is_retried or number > policy.tries:
        return None
    asked = failure.retry_after_seconds or 0.0
    if asked > LONGEST_RETRY_AFTER_SECONDS:
        return None
    return max(_wait(number) * (1 + JITTER_SHARE * random()), asked)


def _wait(number: int) -> float:
    return min(FIRST_WAIT_SECONDS * 2.0 ** (number - 2), LONGEST_WAIT_SECONDS)


def _most_wait(number: int) -> float:
    return _wait(number) * (1 + JITTER_SHARE)
