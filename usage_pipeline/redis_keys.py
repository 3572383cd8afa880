"""Names of Redis keys that only the pipeline uses: caches (contracts §1.7, §1.8), and ours under `usage_pipeline:`. No I/O.

Names that the recorder writes are in its own distribution, `usage_recorder.keys`.
"""

from collections.abc import Sequence
from datetime import date

from usage_recorder.keys import NAMESPACE, number_in_slot, touched

# What `usage_recorder.keys.KEY_LAYOUT` must be for the drain to read the counters.
KEY_LAYOUT_READ = 1
CLAIMS = b"usage_pipeline:claim:"
# Written before a barrier, so that it has something to wait for.
BARRIER = "usage_pipeline:barrier"
# What the drain's log said last of the server: that it may delete counters, or has no barrier.
TOLD = f"{NAMESPACE}told"
# Set of the scopes whose budgets are published, so that one that was removed is found again.
BUDGET_SCOPES = f"{NAMESPACE}budget_scopes"


def token_cache(token_prefix: str) -> str:
    return f"api_token:{token_prefix}"


def taken(family: str) -> str:
    """A set of touched keys that a drain works on; it shares its Redis Cluster slot with `touched`."""
    return f"{NAMESPACE}taken:{{{touched(family)}}}"


def place_in(taken: str) -> str:
    """The SSCAN cursor up to which the keys of a taken set were claimed."""
    return f"{taken}:place"


def token_quota(token_id: str, day: date) -> str:
    """Requests that were let in with that token on that day, if the token has a quota."""
    return f"{NAMESPACE}token_quota:{token_id}:{day.isoformat()}"


def ranking_filler(cache_key: str) -> str:
    """Exists while one process reads a ranking for the cache. Its value names the process."""
    return f"{NAMESPACE}filling:{cache_key}"


def open_batches(family: str) -> str:
    """Hash batch id -> identity of the Redis server that it was claimed from; written before the first rename."""
    return f"{NAMESPACE}open:{family}"


def settled_batches(family: str) -> str:
    """Hash batch id -> identity of the Redis server that settled it; written after the deletion of its claims."""
    return f"{NAMESPACE}settled:{family}"


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
