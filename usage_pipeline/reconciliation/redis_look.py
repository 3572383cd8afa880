"""Reads all counters of Redis or a whole Redis Cluster, by family and day, for the reconciliation. It only reads."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any
from zoneinfo import ZoneInfo

from usage_recorder import keys as recorder_keys

from usage_pipeline import redis_keys as names
from usage_pipeline.drain.families import FAMILIES, Family
from usage_pipeline.merchants.counters import Reader
from usage_pipeline.odometers.lives import MEASURES
from usage_pipeline.reconciliation.balance import Amounts
from usage_pipeline.reconciliation.counted import day_of, of_hash, of_token
from usage_pipeline.storage.redis import LONGEST_VALUE_BYTES, short_fields

_SCAN_COUNT = 10_000
_KEYS_PER_SEND = 500


@dataclass(frozen=True, slots=True)
class HeldKey:
    """A claimed key (renamed by a drain) and its count. The count of a queue is the number of its items."""

    family: str
    batch_id: str
    key: bytes
    day: date
    amount: int


def read_live(reader: Reader, *, at: datetime, timezone: ZoneInfo) -> Amounts:
    """What waits under its live key, without merchant counters. Items of the queue count for the day of `at`."""
    found: Amounts = Counter()
    for family in FAMILIES:
        for page in reader.scan(family.pattern, _SCAN_COUNT):
            # A page may name a key twice; two pages may, too, when Redis resizes its table, which counts too much at most.
            for _, day, amount in _read(reader, family, sorted(set(page)), at, timezone):
                found[family.name, day] += amount
    [length] = reader.pipeline([(b"LLEN", recorder_keys.EVENT_QUEUE)])
    found["event", day_of(None, at, timezone)] += _whole(length)
    return found


def read_claimed(reader: Reader, *, at: datetime, timezone: ZoneInfo) -> list[HeldKey]:
    """The claimed keys. Read them after the live keys, which may become claimed meanwhile, and before the tables."""
    held: list[HeldKey] = []
    for page in reader.scan(names.CLAIMS + b"*", _SCAN_COUNT):
        by_live_key = {claimed: names.parse_claim(claimed) for claimed in sorted(set(page)) if _is_ours(claimed)}
        for family in FAMILIES:
            claims = [claimed for claimed, (_, key) in by_live_key.items() if family.owns(key)]
            for claimed, day, amount in _read(reader, family, claims, at, timezone):
                held.append(HeldKey(family.name, *by_live_key[claimed], day, amount))
        queues = [claimed for claimed, (_, key) in by_live_key.items() if key == recorder_keys.EVENT_QUEUE]
        lengths = reader.pipeline([(b"LLEN", claimed) for claimed in queues]) if queues else []
        today = day_of(None, at, timezone)
        held += [
            HeldKey("event", *by_live_key[claimed], today, _whole(length))
            for claimed, length in zip(queues, lengths, strict=True)
        ]
    return held


def _read(
    reader: Reader, family: Family, found: Sequence[bytes], at: datetime, timezone: ZoneInfo
) -> list[tuple[bytes, date, int]]:
    """Each key with its day and count. A key that is gone by now, or has another type, counts 0."""
    counted = []
    for first in range(0, len(found), _KEYS_PER_SEND):
        some = found[first : first + _KEYS_PER_SEND]
        for key, answer in zip(some, _answers(reader, family, some), strict=True):
            if family.name == "token":
                day, amount = of_token(answer, at=at, timezone=timezone)
            else:
                fields = answer if isinstance(answer, list) else (None, None)
                day, amount = of_hash(*fields, at=at, timezone=timezone)
            counted.append((key, day, amount))
    return counted


def _answers(reader: Reader, family: Family, keys: Sequence[bytes]) -> list[Any]:
    """The value of each token, two fields of each hash."""
    if family.name == "token":
        return reader.pipeline([(b"GETRANGE", key, 0, LONGEST_VALUE_BYTES - 1) for key in keys])
    return short_fields(reader, [(key, (MEASURES[family.name], b"last_used_at")) for key in keys])


def _is_ours(claimed: bytes) -> bool:
    try:
        names.parse_claim(claimed)
    except ValueError:
        return False
    return True


def _whole(answer: Any) -> int:
    """The number in an answer of Redis. 0 for an error, or for an answer without a number."""
    try:
        return int(answer)
    except (TypeError, ValueError):
        return 0
