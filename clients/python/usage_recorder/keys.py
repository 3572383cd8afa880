"""Names of the Redis keys that the recorder writes (contracts §1.1–1.6), and the limits of their values. Pure; no I/O.

The drain imports them from here, so that both always mean the same keys.
"""

from __future__ import annotations

from datetime import date
from functools import lru_cache

KEY_LAYOUT = 1
"""Goes up when a drain that knew the number before could no longer read what this recorder writes."""

MAX_COUNT = 2**63 - 1
MAX_ID_CHARACTERS = 200
NAMESPACE = "usage_pipeline:"
EVENT_QUEUE = b"event_queue"
ODOMETER_LIFE = "life"


def api_key_metrics(api_key_id: str) -> str:
    return f"apikey:{api_key_id}:metrics"


def api_key_timeline(api_key_id: str) -> str:
    return f"apikey:{api_key_id}:timeline"


def provider_metrics(api_key_id: str, provider: str) -> str:
    return f"provider:{api_key_id}:{provider}:metrics"


def token_usage(token_id: str, instance_id: str) -> str:
    return f"token_usage:{token_id}:{instance_id}"


def merchant_counter(merchant_id: str, day: date, metric_type: str) -> str:
    return f"usage:{merchant_id}:{day.isoformat()}:{metric_type}"


def touched(family: str) -> str:
    """Set of the keys that the recorder wrote since a drain last took the set."""
    return f"{NAMESPACE}touched:{family}"


def recorded(family: str, day: date) -> str:
    """The odometer: a hash that counts everything that our recorder wrote for that family and day (contracts §1.6).

    Its field ODOMETER_LIFE has a random name of its life, by which a restored one is known again.
    """
    return f"{NAMESPACE}recorded:{family}:{day.isoformat()}"


def quota(api_key_id: str) -> str:
    """Hash with `requests_per_day` and `requests_per_minute`, published from `usage.api_key_quotas`."""
    return f"{NAMESPACE}quota:{api_key_id}"


def budget(scope: str) -> str:
    """How the budgets of a scope such as `team=search` or `all` stand, as JSON. The pipeline publishes it (contracts §12)."""
    return f"{NAMESPACE}budget:{scope}"


def budgets_as_of() -> str:
    """The pipeline's sign of life about budgets: the epoch seconds of its last look, with a time to live (contracts §12).

    No scope has this name, and whoever may read the answers may read it.
    """
    return budget("as_of")


def quota_used(api_key_id: str, day: date) -> str:
    """Requests that were recorded for that API key on that day. The drain does not touch this key."""
    return f"{NAMESPACE}quota_used:{day.isoformat()}:{api_key_id}"


def numbers(recorder_id: str, slot: int | None = None) -> str:
    """Hash lane -> the number of the last send that was done, of one recorder. On a Redis Cluster it has one in each slot."""
    tag = "" if slot is None else f"{{{number_in_slot(slot)}}}:"
    return f"{NAMESPACE}recorder:{tag}{recorder_id}"


def number_in_slot(slot: int) -> int:
    """The smallest number whose decimal digits hash to that slot."""
    return _numbers_by_slot()[slot]


@lru_cache(maxsize=1)
def _numbers_by_slot() -> dict[int, int]:
    from redis.crc import key_slot  # a command that asks for help need not wait for redis-py

    # The first 109,758 cover all 16,384 slots. Downwards, so that the smallest of a slot stays.
    return {key_slot(b"%d" % number): number for number in range(109_757, -1, -1)}
