"""The ground of random schedules: the servers, drainer processes that are equipped for them, and the tally of what happened."""

import itertools
import logging
import socket
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest
import redis

from usage_pipeline.drain import room
from usage_pipeline.drain.batch import Batch
from usage_pipeline.drain.corrections import Correction
from usage_pipeline.drain.dead_letters import Choice, replay
from usage_pipeline.drain.families import Family
from usage_pipeline.drain.sources import node as redis_source
from usage_pipeline.drain.sources.node import RedisSource
from usage_pipeline.drain.store import Applied, UsageStore
from usage_pipeline.settings import Settings
from usage_pipeline.storage.chunks.partitions import ensure_partitions_ahead
from usage_pipeline.values import PossibleTimes
from usage_pipeline_tests.drain.rig import Life, lives
from usage_pipeline_tests.drain.state_machine.books import Amounts, Books, Drained, InPostgres, event_part
from usage_pipeline_tests.drain.state_machine.days import Days
from usage_pipeline_tests.drain.state_machine.schedule_writer import HUGE
from usage_pipeline_tests.drain.state_machine.stepped import InlineExecutor

CHUNK_KEYS = 3
_ROOM = room.LARGEST_BATCH_BYTES


@dataclass(slots=True)
class Tally:
    """What the schedules so far amounted to. `written`, `stored` and so on are requests, uploads, token uses and events."""

    counts: Counter[str] = field(default_factory=Counter)

    def add(self, books: Books, stored: InPostgres, drained: Drained) -> None:
        self.counts["schedules"] += 1
        written, rest, dead = _units(books.written), _units(stored.totals), _units(stored.dead)
        events = {part for item in books.pushed if (part := event_part(item))}
        refused = sum(1 for item in books.pushed if not event_part(item))
        for part in written | rest:
            surplus = rest[part] + dead[part] - written[part]
            self.counts["doubled"] += max(0, surplus)
            self.counts["lost"] += max(0, -surplus)
        self.counts["lost"] += len({part.name for part in events} - drained.event_ids)
        self.counts["written"] += written.total() + len({part.name for part in events}) + refused
        self.counts["stored"] += rest.total() + len(drained.event_ids)
        self.counts["dead_letters"] += dead.total() + refused

    def document(self) -> dict[str, int]:
        return dict(sorted(self.counts.items()))


def _units(amounts: Amounts) -> Amounts:
    """Requests, uploads and token uses; without the huge amounts, which would hide all others in a sum."""
    first = ("total_requests", "upload_count", "usage_count")
    return Amounts({part: amount % HUGE for part, amount in amounts.items() if part.field in first})


_COPY = """\
local copy = {}
for _, key in ipairs(redis.call('KEYS', '*')) do
  copy[#copy + 1] = {key, math.max(redis.call('PTTL', key), 0), redis.call('DUMP', key)}
end
return copy
"""


class Ground:
    """The servers that schedules run on, one after the other, and the connections that outlive a schedule."""

    def __init__(self, settings: Settings, client: redis.Redis, postgres: psycopg.Connection) -> None:
        self.settings, self.redis, self.postgres = settings, client, postgres
        self.tally = Tally()
        self.batches = itertools.count(1)
        self._spare: list[Life] = []
        self._days: Days | None = None
        self._store = UsageStore(postgres, usage_timezone="UTC", drained_by="replay")
        postgres.execute("set lock_timeout = '50ms'")
        # No schedule ends the server, so nobody needs to wait for its disk.
        self._appendfsync = client.config_get("appendfsync")["appendfsync"]
        client.config_set("appendfsync", "no")
        # A partition that is made on demand would make a schedule differ from its replay.
        ensure_partitions_ahead(postgres)

    def life(self, skew_seconds: int) -> Life:
        """A drainer process whose clock is that far ahead; one of an earlier schedule that came to a good end will do."""
        if self._spare:
            life = self._spare.pop()
        else:
            life = Life(self.settings, barrier="none", chunk_keys=CHUNK_KEYS)
            for source in (life.claiming, life.releasing):
                _make_repeatable(source)
            self._count_second_applies(life)
        for source in (life.claiming, life.releasing):
            source.now_ms = lambda source=source: RedisSource.now_ms(source) + skew_seconds * 1000
        return life

    def set_room(self, most_bytes: int | None) -> None:
        """What a batch may hold in this schedule. None: as in production."""
        room.LARGEST_BATCH_BYTES = most_bytes or _ROOM

    def _count_second_applies(self, life: Life) -> None:
        apply = life.store.apply

        def counted_apply(family: Family, batch: Batch) -> Applied:
            applied = apply(family, batch)
            self.tally.counts["applied_by_another"] += not applied.is_ours
            return applied

        life.store.apply = counted_apply

    def keep(self, life: Life) -> None:
        life.at_step = lambda number, label: None
        self._spare.append(life)

    def new_batch_id(self, claimed_ms: int) -> str:
        """Ids that ascend in the order in which they are made, even within a millisecond."""
        return f"{claimed_ms:013d}-{next(self.batches):010x}"

    def replay(self, number: int, changes: Mapping[str, str]) -> bool | None:
        """Replays a dead letter, with members set. Whether it counts; None if a drainer holds what it needs."""
        correction = Correction(changes, "a schedule", "machine") if changes else None
        try:
            [result] = replay(
                self.postgres, self._store, Choice(ids=[number]), times=PossibleTimes(), correction=correction
            )
        except psycopg.errors.LockNotAvailable:
            return None
        return result.is_counted

    def begin_days(self, families: Collection[str]) -> Days:
        """The days of this schedule, if it has any."""
        self._days = Days(self.postgres, self.settings, families)
        return self._days

    def _end_days(self) -> None:
        if self._days:
            self._days.close()
            self._days = None

    def clear(self) -> None:
        self._end_days()
        self.batches = itertools.count(1)
        self.redis.flushall()
        self.postgres.execute(_EMPTY_TABLES if self.tally.counts["schedules"] % 100 == 0 else _DELETE_ROWS)

    def copy_redis(self) -> list[Any]:
        """Each key with its TTL in milliseconds (0: none) and its DUMP."""
        copy: list[Any] = self.redis.eval(_COPY, 0)
        return copy

    def restore_redis(self, copy: list[Any]) -> None:
        with self.redis.pipeline(transaction=True) as pipe:
            pipe.flushall()
            for key, ttl_ms, dump in copy:
                pipe.restore(key, ttl_ms, dump)
            pipe.execute()

    def close(self) -> None:
        self.drop_lives()
        self.set_room(None)
        self._end_days()
        self.redis.config_set("appendfsync", self._appendfsync)

    def drop_lives(self) -> None:
        while self._spare:
            self._spare.pop().__exit__()


_TABLES = (
    "raw.api_key_deltas", "raw.provider_deltas", "raw.token_deltas", "raw.request_events", "raw.request_event_ids",
    "usage.api_keys", "usage.provider_usage", "usage.api_access_tokens", "ops.sync_batches", "ops.dead_letters",
    "ops.touched_days", "ops.corrections",
)  # fmt: skip
_EMPTY_TABLES = f"truncate {', '.join(_TABLES)} cascade"
_DELETE_ROWS = "; ".join(f"delete from {table}" for table in _TABLES)


def _make_repeatable(source: RedisSource) -> None:
    """What Redis answers in any order it likes comes in a fixed one."""
    scan, connection = source._scan, source._connection

    def sorted_scan(what: str, pattern: bytes, chunk_keys: int, **options: bool) -> Iterator[list[bytes]]:
        for found in scan(what, pattern, 10_000, **options):
            found.sort()
            yield from (found[first : first + chunk_keys] for first in range(0, len(found), chunk_keys))

    def all_members(name: str, cursor: bytes, count: int) -> tuple[bytes, list[bytes]]:
        return b"0", sorted(connection.call("SMEMBERS", name))

    source._scan = sorted_scan
    connection.members_page = all_members  # type: ignore[method-assign]


def break_connection(source: RedisSource) -> None:
    """What was answered can still be read; everything after that fails. Only the socket, so that the drain must find out."""
    if connected := source._connection._connection._sock:
        with suppress(OSError):
            connected.shutdown(socket.SHUT_RDWR)


@contextmanager
def repeatable_drains(ground: Ground) -> Iterator[None]:
    """The constants of the drain for small batches, one key a send, and nothing in it that chance decides."""
    patch = pytest.MonkeyPatch()
    with lives(patch), patch.context() as patch:
        # It warns of each rollback on a connection that is gone.
        patch.setattr(logging.getLogger("psycopg"), "disabled", True)
        patch.setattr(redis_source, "_KEYS_PER_SEND", 1)
        patch.setattr(redis_source, "_KEYS_PER_UNLINK", 1)
        patch.setattr("usage_pipeline.drain.protocol.ThreadPoolExecutor", InlineExecutor)
        for module in ("protocol", "event_queue"):
            # As in production: drainers whose clocks disagree forget each other's empty batches too early anyhow.
            patch.setattr(f"usage_pipeline.drain.{module}.FORGET_EMPTY_BATCH_MS", 60_000)
            patch.setattr(f"usage_pipeline.drain.{module}.new_batch_id", ground.new_batch_id)
        yield
