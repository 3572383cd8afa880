"""Names of Redis keys: those of the API servers (contracts §1.1–1.8) and ours under `usage_pipeline:`. Pure; no I/O.

The limits of their values are here, too, since the recorder and the drain share them.
"""

import secrets
from collections.abc import Sequence
from datetime import date
from functools import lru_cache

MAX_COUNT = 2**63 - 1
MAX_ID_CHARACTERS = 200
NAMESPACE = "usage_pipeline:"
CLAIMS = b"usage_pipeline:claim:"
EVENT_QUEUE = b"event_queue"
# Written before a barrier, so that it has something to wait for.
BARRIER = "usage_pipeline:barrier"
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


def token_cache(token_prefix: str) -> str:
    return f"api_token:{token_prefix}"


def touched(family: str) -> str:
    """Set of the keys that the recorder wrote since a drain last took the set."""
    return f"{NAMESPACE}touched:{family}"


def taken(family: str) -> str:
    """A set of touched keys that a drain works on; it shares its Redis Cluster slot with `touched`."""
    return f"{NAMESPACE}taken:{{{touched(family)}}}"


def place_in(taken: str) -> str:
    """The SSCAN cursor up to which the keys of a taken set were claimed."""
    return f"{taken}:place"


def recorded(family: str, day: date) -> str:
    """The odometer: a hash that counts everything that our recorder wrote for that family and day (contracts §1.6).

    Its field ODOMETER_LIFE has a random name of its life, by which a restored one is known again.
    """
    return f"{NAMESPACE}recorded:{family}:{day.isoformat()}"


def odometer_life(base: int) -> str:
    """A new name for the life of an odometer that counts `base` when it begins."""
    return f"{base}-{secrets.token_hex(6)}"


def quota(api_key_id: str) -> str:
    """Hash with `requests_per_day` and `requests_per_minute`, published from `usage.api_key_quotas`."""
    return f"{NAMESPACE}quota:{api_key_id}"


def quota_used(api_key_id: str, day: date) -> str:
    """Requests that were recorded for that API key on that day. The drain does not touch this key."""
    return f"{NAMESPACE}quota_used:{day.isoformat()}:{api_key_id}"


def token_quota(token_id: str, day: date) -> str:
    """Requests that were let in with that token on that day, if the token has a quota."""
    return f"{NAMESPACE}token_quota:{token_id}:{day.isoformat()}"


def ranking_filler(cache_key: str) -> str:
    """Exists while one process reads a ranking for the cache. Its value names the process."""
    return f"{NAMESPACE}filling:{cache_key}"


def open_batches(family: str) -> str:
    """Hash batch id -> identity of the Redis server that it was claimed from; written before the first rename."""
    return f"{NAMESPACE}open:{family}"


def scan_pause(what: str) -> str:
    """Exists while a scan of all keys for `what` is not due yet. Its value names the process that scanned last."""
    return f"{NAMESPACE}scanned:{what}"


def scan_place(what: str) -> str:
    """Where the last scan of all keys for `what` ended, for the next one."""
    return f"{NAMESPACE}scanning:{what}"


def drained_server(family: str) -> str:
    """The Redis server that the family was last drained from, as the drain has said in its log."""
    return f"{NAMESPACE}server:{family}"


def unlinked(batch_id: str) -> str:
    """Exists for as long after the deletion of a batch's claims as the barrier by age demands."""
    return f"{NAMESPACE}unlinked:{batch_id}"


def claim(batch_id: str, key: bytes) -> bytes:
    """The name under which `batch_id` holds `key`; both names share a Redis Cluster slot."""
    return claims(batch_id, [key])[0]


def claims(batch_id: str, live: Sequence[bytes]) -> list[bytes]:
    """`claim` for many keys of one batch."""
    prefix = CLAIMS + batch_id.encode() + b":"
    together = b"".join(live)
    if b"{" not in together and b"}" not in together:
        # One look for all of them: a drain makes the names of hundreds of thousands.
        return [b"%b{%b}" % (prefix, key) for key in live]
    return [prefix + _tagged(key) for key in live]


def parse_claim(claimed: bytes) -> tuple[str, bytes]:
    """Batch id and live key of a claimed key: the inverse of `claim`.

    Raises ValueError if the name was not made by `claim`.
    """
    batch_id, separator, tagged = claimed.removeprefix(CLAIMS).partition(b":")
    if not claimed.startswith(CLAIMS) or not separator or not tagged:
        raise ValueError(f"expected usage_pipeline:claim:<batch_id>:<tagged key>, came {claimed!r}")
    if not tagged.startswith(b"{"):
        return batch_id.decode(), tagged
    inner, _, rest = tagged[1:].partition(b"}")
    return batch_id.decode(), rest[1:] if rest else inner


def _tagged(key: bytes) -> bytes:
    """The key in braces. A key with its own hash tag stays as it is: braces around it would change its slot.

    A key with a `}` but no hash tag (`a}b`, `a{}b`) cannot be wrapped, since its own `}` would end the tag early: it gets
    a number in front that hashes to its slot, `{number}=key`. No live key begins with `{`: the forms cannot be confused.
    """
    opening = key.find(b"{")
    if opening >= 0 and key.find(b"}", opening + 1) > opening + 1:
        return key
    if b"}" not in key:
        return b"{%b}" % key
    from redis.crc import key_slot

    return b"{%d}=%s" % (number_in_slot(key_slot(key)), key)


@lru_cache(maxsize=1024)
def number_in_slot(slot: int) -> int:
    """The smallest number whose decimal digits hash to that slot; the first 109,758 cover all 16,384 slots."""
    from redis.crc import key_slot  # a command that asks for help need not wait for redis-py

    return next(number for number in range(109_758) if key_slot(b"%d" % number) == slot)
