"""The Redis side of merchant counters (contracts §1.4): finds the keys and reads the counters. It stores nothing."""

import re
from collections.abc import Container, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import date
from functools import lru_cache
from typing import Any

import psycopg
import redis
from usage_recorder import keys as recorder_keys

from usage_pipeline import values
from usage_pipeline.drain.batch import DeadLetter
from usage_pipeline.settings import Settings
from usage_pipeline.storage.postgres import PostgresUnavailable, connect, first_line, is_mended_by_time
from usage_pipeline.storage.redis import Command, PinnedConnection, RedisUnavailable, client
from usage_pipeline.storage.redis_cluster import ClusterReader, cluster_client, translated_cluster_errors
from usage_pipeline.storage.servers.redis_facts import is_cluster_node
from usage_pipeline.values import Malformed

# A server, or a whole cluster.
Reader = PinnedConnection | ClusterReader

# Keys that are read and stored in one transaction: it bounds the memory, not the number of counters.
CHUNK_KEYS = 10_000
_KEYS_PER_SEND = 500
_SCAN_COUNT = 10_000
# A counter has at most 19 digits. What else stands under its name may be of any size, and is not read in full.
_LONGEST_RAW_BYTES = 4_096
_PREFIX = b"usage:"
_DATE = re.compile(rb"\d{4}-\d{2}-\d{2}")
_GLOB_CHARACTERS = re.compile(rb"[\\*?\[\]]")


@dataclass(frozen=True, slots=True, order=True)
class CounterKey:
    """What a merchant counter counts: `usage:{merchant_id}:{day}:{metric_type}`."""

    merchant_id: str
    day: date
    metric_type: str

    @property
    def redis_key(self) -> bytes:
        return recorder_keys.merchant_counter(self.merchant_id, self.day, self.metric_type).encode()


@dataclass(frozen=True, slots=True)
class FoundKey:
    """The parts of a merchant key, not checked. `day` is None if the key has four parts but a malformed date."""

    key: bytes
    merchant_id: bytes
    day: date | None
    metric_type: bytes


@dataclass(frozen=True, slots=True)
class RefusedKey:
    """A key that cannot be stored. `day` is None when its date is malformed."""

    day: date | None
    letter: DeadLetter


@dataclass(slots=True)
class Reading:
    """The values of a chunk of keys: counters, and refused keys. A key that expired meanwhile is in neither."""

    counters: dict[CounterKey, int] = field(default_factory=dict)
    refused: list[RefusedKey] = field(default_factory=list)


def parse_counter_key(key: bytes) -> CounterKey | None:
    """The parts of a merchant's key, or None for a `usage:` key that is not one (§1.4).

    Raises Malformed if a key of four parts has a malformed date, or an id that cannot be stored (§2).
    """
    found = split_key(key)
    return None if found is None else _checked(found)


def split_key(key: bytes) -> FoundKey | None:
    """Like `parse_counter_key` without checking date and ids, so that a refused key still tells its day."""
    parts = key.removeprefix(_PREFIX).rsplit(b":", 2)
    if len(parts) < 3 or not key.startswith(_PREFIX):
        return None
    merchant_id, written_day, metric_type = parts
    day = _day(written_day)
    if day is None and b":" in merchant_id:
        return None
    return FoundKey(key, merchant_id, day, metric_type)


@contextmanager
def open_servers(settings: Settings) -> Iterator[tuple[psycopg.Connection, Reader]]:
    """Connections to PostgreSQL, which is asked first, and to Redis or the whole Redis Cluster.

    Their errors become PostgresUnavailable or RedisUnavailable. Counters are absolute and stay in Redis, so in both cases the
    caller runs again.
    """
    try:
        with (
            translated_cluster_errors(),
            closing(connect(settings)) as postgres,
            closing(client(settings)) as pooled,
            PinnedConnection(pooled) as connection,
        ):
            if is_cluster_node(connection):
                with closing(cluster_client(settings)) as cluster, closing(ClusterReader(cluster)) as reader:
                    yield postgres, reader
            else:
                yield postgres, connection
    except psycopg.Error as error:
        if not is_mended_by_time(error):
            raise
        raise PostgresUnavailable(
            f"PostgreSQL does not answer any more: {first_line(error)}. Nothing is lost; run again"
        ) from None
    except redis.RedisError as error:
        raise RedisUnavailable(f"Redis refused a command: {first_line(error)}") from None


def find_keys(connection: Reader, days: Container[date], merchant_id: str | None = None) -> Iterator[list[FoundKey]]:
    """The keys of all these days, and keys with a malformed date, in chunks, by one scan of all keys.

    A chunk has no key twice. Two chunks may have the same key when Redis resizes its table during the scan; to store it again
    changes nothing.
    """
    wanted_id = None if merchant_id is None else merchant_id.encode()
    pending = dict[bytes, FoundKey]()
    for scanned in connection.scan(_pattern(wanted_id), _SCAN_COUNT):
        for key in scanned:
            found = split_key(key)
            if (
                found is not None
                and (found.day is None or found.day in days)
                and (wanted_id is None or found.merchant_id == wanted_id)
            ):
                pending[key] = found
        if len(pending) >= CHUNK_KEYS:
            yield from _chunks(pending)
            pending = {}
    yield from _chunks(pending)


def read_counters(connection: Reader, found: Sequence[FoundKey]) -> Reading:
    """Reads the keys as they are now. Raises redis.ResponseError when Redis refuses to read at all."""
    reading = Reading()
    for first in range(0, len(found), _KEYS_PER_SEND):
        some = found[first : first + _KEYS_PER_SEND]
        replies = connection.pipeline([(b"GETRANGE", one.key, 0, _LONGEST_RAW_BYTES - 1) for one in some])
        wrong_types, empty = [], []
        for one, reply in zip(some, replies, strict=True):
            if isinstance(reply, redis.ResponseError):
                wrong_types.append(_wrong_type(one, reply))
            elif reply == b"":
                empty.append(one)
            else:
                _take(reading, one, reply)
        # GETRANGE answers alike for an empty string and for a key that is gone.
        for one, exists in zip(empty, _answers(connection, [(b"EXISTS", one.key) for one in empty]), strict=True):
            if exists:
                _take(reading, one, b"")
        if wrong_types:
            reading.refused += _refuse_types(connection, wrong_types)
    return reading


def _chunks(found: dict[bytes, FoundKey]) -> Iterator[list[FoundKey]]:
    ready = list(found.values())
    return (ready[first : first + CHUNK_KEYS] for first in range(0, len(ready), CHUNK_KEYS))


@lru_cache(maxsize=4096)
def _day(written: bytes) -> date | None:
    if not _DATE.fullmatch(written):
        return None
    try:
        return date.fromisoformat(written.decode())
    except ValueError:
        return None


def _checked(found: FoundKey) -> CounterKey:
    if found.day is None:
        written = found.key.split(b":")[2]
        raise Malformed(f"date: expected a day as YYYY-MM-DD, came {values.shown(written)}")
    merchant_id = values.identifier("merchant_id", found.merchant_id)
    return CounterKey(merchant_id, found.day, values.identifier("metric_type", found.metric_type))


def _pattern(merchant_id: bytes | None) -> bytes:
    if merchant_id is None:
        return _PREFIX + b"*"
    return _PREFIX + _GLOB_CHARACTERS.sub(rb"\\\g<0>", merchant_id) + b":*"


# The texts of reasons are part of what identifies an open dead letter (refresh_merchant_dead_letters.sql): in other words, the
# same counter would be refused a second time.


def _take(reading: Reading, found: FoundKey, value: bytes) -> None:
    try:
        reading.counters[_checked(found)] = values.count("value", value)
    except Malformed as malformed:
        reason = str(malformed)
        if len(value) == _LONGEST_RAW_BYTES:
            reason += f" at least; only these first {_LONGEST_RAW_BYTES} bytes are kept"
        reading.refused.append(RefusedKey(found.day, DeadLetter(found.key, reason, value, "string")))


def _wrong_type(found: FoundKey, error: redis.ResponseError) -> FoundKey:
    if not str(error).startswith("WRONGTYPE"):
        raise error
    return found


def _answers(connection: Reader, commands: Sequence[Command]) -> list[Any]:
    answers = connection.pipeline(commands) if commands else []
    for answer in answers:
        if isinstance(answer, redis.ResponseError):
            raise answer
    return answers


def _refuse_types(connection: Reader, found: Sequence[FoundKey]) -> list[RefusedKey]:
    """Dead letters of keys that are not strings, with their DUMP, unless that would be large."""
    types = _answers(connection, [(b"TYPE", one.key) for one in found])
    # MEMORY and DUMP may be forbidden to us: their errors are answers like "too large".
    sizes = connection.pipeline([(b"MEMORY", b"USAGE", one.key) for one in found])
    small = [one.key for one, size in zip(found, sizes, strict=True) if _is_small(size)]
    dumps = dict(zip(small, connection.pipeline([(b"DUMP", key) for key in small]), strict=True))
    refused = []
    for one, redis_type in zip(found, types, strict=True):
        if redis_type == b"none":
            continue
        reason = _type_reason(one, redis_type)
        dump = dumps.get(one.key)
        if not isinstance(dump, bytes):
            dump, reason = b"", f"{reason}; its content is not kept here, look into Redis"
        refused.append(RefusedKey(one.day, DeadLetter(one.key, reason, dump, "dump")))
    return refused


def _is_small(size: Any) -> bool:
    return isinstance(size, int) and size <= _LONGEST_RAW_BYTES


def _type_reason(found: FoundKey, redis_type: bytes) -> str:
    try:
        _checked(found)
    except Malformed as malformed:
        return str(malformed)
    return f"key: expected a Redis string, came a {redis_type.decode()}"
