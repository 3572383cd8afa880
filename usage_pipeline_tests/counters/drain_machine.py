"""Random schedules of the drain: writers, several drainers, crashes, lost connections, fail-over of Redis; on real servers.

Each drainer stands still at every Redis round trip and every SQL statement, and Hypothesis draws who goes on, how far, and
what fails there. After each rule the books must be right to the last unit (drain_books.py); at the end quiet drains must
bring everything to rest. A schedule is run again exactly by what was drawn, so a failure shrinks.

As a program it runs as many schedules as it is told, on servers of its own, and prints a tally as JSON:
    python usage_pipeline_tests/counters/drain_machine.py --schedules 10000 --seed 1
"""

import argparse
import itertools
import json
import logging
import shutil
import socket
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
from drain_books import (
    QUEUE,
    WRONG_TYPE,
    Amounts,
    Books,
    InPostgres,
    InRedis,
    Part,
    event_part,
    look_into_postgres,
    look_into_redis,
)
from drain_rig import Crash, Life, event_item, lives
from hypothesis import HealthCheck, Phase, note, seed
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from stepped_drain import ONE_STEP, TO_ITS_END, InlineExecutor, SteppedDrain, Stretch, settle_waiting

from usage_pipeline.counters import keys as names
from usage_pipeline.counters import redis_source
from usage_pipeline.counters.batch import Batch
from usage_pipeline.counters.drain import BarrierFellShort, DrainLimits
from usage_pipeline.counters.families import Family
from usage_pipeline.counters.redis_source import RedisSource
from usage_pipeline.counters.usage_store import Applied
from usage_pipeline.local.servers import LocalServers
from usage_pipeline.settings import Settings, load_settings
from usage_pipeline.storage.migrations import migrate
from usage_pipeline.storage.partitions import ensure_partitions_ahead
from usage_pipeline.storage.redis import RedisUnavailable

IDS = ("a", "b:c", "{d}e", "f}")
INSTANCES = ("host:1", "host:2")
CHUNK_KEYS = 3
SECONDS_OF_SKEW = (0, 0, 0, 300, -300)
# A last drain finds what drainers with a fast clock have begun, and old enough to be settled.
SKEW_OF_THE_LAST_SECONDS = 600
MOST_DRAINERS = 4
STEPS = 25
HUGE = 2**62
MAX_COUNT = 2**63 - 1

# Where a drainer is worth stopping: around each step that changes something for good, or decides.
POINTS = (
    "before HSET usage_pipeline:open",
    "before EVAL local renamed",
    "sent EVAL local renamed",
    "before RENAMENX",
    "sent RENAMENX",
    "before LRANGE",
    "before SET usage_pipeline:barrier",
    "before sql -- The ledger row",
    "before commit",
    "after commit",
    "before UNLINK",
    "sent UNLINK",
    "before sql -- The keys of these",
    "before HDEL",
)
stretches = st.one_of(
    st.integers(1, 20).map(lambda steps: (steps, ())),
    st.sampled_from(POINTS).map(lambda point: (TO_ITS_END[0], (point,))),
    st.just(TO_ITS_END),
)
# Where another drainer can do most harm: among the renames of one batch, and between its claim, its storing and its release.
_CLAIMED = ("sent EVAL local renamed", "sent RENAMENX")
weak_points = st.sampled_from(
    (
        _CLAIMED,
        _CLAIMED,
        _CLAIMED,
        ("before EVAL local renamed", "before RENAMENX"),
        ("before SET usage_pipeline:barrier",),
        ("before sql -- The ledger row",),
        ("before commit",),
        ("after commit",),
        ("sent UNLINK",),
        ("before sql -- The keys of these",),
    )
).map(lambda labels: (TO_ITS_END[0], labels))
mostly_to_the_end = st.one_of(st.just(TO_ITS_END), st.just(TO_ITS_END), stretches)
FAULTS = (
    "crash",
    "crash",
    "PostgreSQL ends the connection",
    "COMMIT is not answered",
    "Redis is lost to the claims",
    "Redis is lost to the releases",
)
amounts = st.sampled_from((1, 2, 3, 5, 8))
which = st.integers(0, MOST_DRAINERS - 1)


@dataclass(slots=True)
class Tally:
    """What the schedules so far amounted to. `written`, `stored` and so on are requests, uploads, token uses and events."""

    counts: Counter[str] = field(default_factory=Counter)

    def add(self, books: Books, stored: InPostgres) -> None:
        self.counts["schedules"] += 1
        written, rest, dead = _units(books.written), _units(stored.totals), _units(stored.dead)
        events = {part for item in books.pushed if (part := event_part(item))}
        refused = sum(1 for item in books.pushed if not event_part(item))
        for part in written | rest:
            surplus = rest[part] + dead[part] - written[part]
            self.counts["doubled"] += max(0, surplus)
            self.counts["lost"] += max(0, -surplus)
        self.counts["lost"] += len({part.name for part in events} - {part.name for part in stored.events})
        self.counts["written"] += written.total() + len({part.name for part in events}) + refused
        self.counts["stored"] += rest.total() + stored.events.total()
        self.counts["dead_letters"] += dead.total() + refused

    def document(self) -> dict[str, int]:
        return dict(sorted(self.counts.items()))


def _units(amounts: Amounts) -> Amounts:
    """Requests, uploads and token uses; without the huge amounts, which would hide all others in a sum."""
    first = ("total_requests", "upload_count", "usage_count")
    return Amounts({part: amount % HUGE for part, amount in amounts.items() if part.field in first})


# Redis at one moment: each key with its TTL in ms (0: none) and its DUMP.
_COPY = """\
local copy = {}
for _, key in ipairs(redis.call('KEYS', '*')) do
  copy[#copy + 1] = {key, math.max(redis.call('PTTL', key), 0), redis.call('DUMP', key)}
end
return copy
"""
# SPOP, but always the same members.
_POP = """\
local members = redis.call('SMEMBERS', KEYS[1])
table.sort(members)
local some = {}
for i = 1, math.min(#members, tonumber(ARGV[1])) do
  some[i] = members[i]
  redis.call('SREM', KEYS[1], members[i])
end
return some
"""


class Ground:
    """The servers that schedules run on, one after the other, and the connections that outlive a schedule."""

    def __init__(self, settings: Settings, client: redis.Redis, postgres: psycopg.Connection) -> None:
        self.settings, self.redis, self.postgres = settings, client, postgres
        self.tally = Tally()
        self.batches = itertools.count(1)
        self._spare: list[Life] = []
        # No schedule ends the server, so nobody needs to wait for its disk.
        self._appendfsync = client.config_get("appendfsync")["appendfsync"]
        client.config_set("appendfsync", "no")
        # Days are not what is tested, and a partition that is made on demand would make a schedule differ from its replay.
        ensure_partitions_ahead(settings.database_url.get_secret_value())

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

    def clear(self) -> None:
        self.batches = itertools.count(1)
        self.redis.flushall()
        self.postgres.execute(_EMPTY_TABLES if self.tally.counts["schedules"] % 100 == 0 else _DELETE_ROWS)

    def close(self) -> None:
        self.drop_lives()
        self.redis.config_set("appendfsync", self._appendfsync)

    def drop_lives(self) -> None:
        while self._spare:
            self._spare.pop().__exit__()


_TABLES = (
    "raw.api_key_deltas", "raw.provider_deltas", "raw.token_deltas", "raw.request_events", "raw.request_event_ids",
    "usage.api_keys", "usage.provider_usage", "usage.api_access_tokens", "ops.sync_batches", "ops.dead_letters",
    "ops.touched_days",
)  # fmt: skip
_EMPTY_TABLES = f"truncate {', '.join(_TABLES)}"
_DELETE_ROWS = "; ".join(f"delete from {table}" for table in _TABLES)


def _make_repeatable(source: RedisSource) -> None:
    """What Redis answers in any order it likes comes in a fixed one."""
    scan, call = source._scan, source._connection.call

    def sorted_scan(what: str, pattern: bytes, chunk_keys: int) -> Iterator[list[bytes]]:
        for found in scan(what, pattern, 10_000):
            found.sort()
            yield from (found[first : first + chunk_keys] for first in range(0, len(found), chunk_keys))

    def repeatable_call(*command: bytes | str | int) -> Any:
        return call("EVAL", _POP, 1, *command[1:]) if command[0] == "SPOP" else call(*command)

    source._scan, source._connection.call = sorted_scan, repeatable_call


def _break_connection(source: RedisSource) -> None:
    """What was answered can still be read; everything after that fails. Only the socket, so that the drain must find out."""
    if connected := source._connection._connection._sock:
        with suppress(OSError):
            connected.shutdown(socket.SHUT_RDWR)


@contextmanager
def repeatable_drains(ground: Ground) -> Iterator[None]:
    """The constants of the drain for small batches, one key a send, and nothing in it that chance decides."""
    patch = pytest.MonkeyPatch()
    # It warns of each rollback on a connection that is gone.
    logging.getLogger("psycopg").setLevel(logging.ERROR)
    with lives(patch), patch.context() as patch:
        patch.setattr(redis_source, "_KEYS_PER_SEND", 1)
        patch.setattr(redis_source, "_KEYS_PER_UNLINK", 1)
        patch.setattr("usage_pipeline.counters.drain.ThreadPoolExecutor", InlineExecutor)
        for module in ("drain", "request_events"):
            # As in production: drainers whose clocks disagree forget each other's empty batches too early anyhow.
            patch.setattr(f"usage_pipeline.counters.{module}.FORGET_EMPTY_BATCH_MS", 60_000)
            patch.setattr(f"usage_pipeline.counters.{module}.new_batch_id", ground.new_batch_id)
        yield


@dataclass(frozen=True, slots=True)
class Flaws:
    """What goes on around one drain. `short_barrier`: which one is not confirmed; `stop`: when it is asked to stop."""

    short_barrier: int = 0
    stop: int = 0
    scans_live: bool = True
    scans_claims: bool = True


FLAWLESS = Flaws()
flaws = st.builds(
    Flaws,
    short_barrier=st.sampled_from((0, 0, 0, 1, 2, 3)),
    stop=st.sampled_from((0, 0, 0, 1, 2, 3)),
    scans_live=st.sampled_from((True, True, False)),
    scans_claims=st.sampled_from((True, True, False)),
)


@dataclass(slots=True)
class Drainer:
    """One of the drainer processes of a schedule: its life, once it is started, and what it is at."""

    life: Life | None = None
    drain: SteppedDrain | None = None
    flaws: "Flaws" = field(default_factory=lambda: FLAWLESS)
    barriers: int = 0
    questions: int = 0


class DrainMachine(RuleBasedStateMachine):
    """See the module. `ground` is set by `machine_on`."""

    ground: Ground

    def __init__(self) -> None:
        super().__init__()
        self.ground.clear()
        self.books = Books()
        self.families: tuple[str, ...] = ()
        self.drainers: list[Drainer] = []
        self.fail_overs_left = 0
        self.serial = 0
        self.late: set[tuple[str, bytes]] = set()
        self.earlier: list[tuple[Books, list[Any]]] = []
        self.highest = Counter[Part]()

    # what happens

    @initialize(
        families=st.sampled_from(
            [
                ("api_key",),
                ("api_key",),
                ("provider",),
                ("token",),
                ("event",),
                ("event",),
                ("api_key", "event"),
                ("token", "provider"),
            ]
        ),
        drainers=st.integers(2, MOST_DRAINERS),
        fail_overs=st.sampled_from((0, 1, 1, 2)),
        amount=amounts,
        announces=st.booleans(),
        until=weak_points,
        meanwhile=mostly_to_the_end,
        then=mostly_to_the_end,
    )
    def begin(
        self,
        families: tuple[str, ...],
        drainers: int,
        fail_overs: int,
        amount: int,
        announces: bool,
        until: Stretch,
        meanwhile: Stretch,
        then: Stretch,
    ) -> None:
        self.families, self.fail_overs_left = families, fail_overs
        self.drainers = [Drainer() for _ in range(drainers)]
        for family in families:
            for name in IDS:
                self._write(family, name, amount, announces)
        self.earlier = [self._copy()]
        self._overtake(0, families[0], until, 0, meanwhile, dict.fromkeys(IDS, amount), then)

    @rule(
        family=which,
        names=st.lists(st.sampled_from(IDS), min_size=1, max_size=4),
        amount=amounts,
        announces=st.booleans(),
    )
    def write(self, family: int, names: list[str], amount: int, announces: bool) -> None:
        for name in names:
            self._write(self._family(family), name, amount, announces)

    @rule(family=which, name=st.sampled_from(IDS), kind=st.sampled_from(("malformed", "wrong type", "huge", "again")))
    def write_trouble(self, family: int, name: str, kind: str) -> None:
        """What must become a dead letter, or for events a duplicate or a conflict."""
        chosen = self._family(family)
        if chosen == "event":
            self._push_trouble(kind)
        elif kind == "malformed":
            self._write_malformed(chosen, name)
        elif kind == "huge":
            self._write_huge(chosen, name)
        else:
            self._write_wrong_type(chosen)

    @rule(
        at=which,
        family=which,
        skew_seconds=st.sampled_from(SECONDS_OF_SKEW),
        flaws=flaws,
        stretch=stretches,
    )
    def start(self, at: int, family: int, skew_seconds: int, flaws: Flaws, stretch: Stretch) -> None:
        if idle := self._idle():
            self._start(_pick(idle, at), self._family(family), skew_seconds, flaws, stretch)

    @rule(at=which, stretch=stretches)
    def go_on(self, at: int, stretch: Stretch) -> None:
        if movable := self._movable():
            self._go(_pick(movable, at), stretch)

    @rule(
        at=which,
        family=which,
        names=st.lists(st.sampled_from(IDS), min_size=2, max_size=4, unique=True),
        amount=amounts,
        until=weak_points,
        skew_seconds=st.sampled_from(SECONDS_OF_SKEW),
        meanwhile=mostly_to_the_end,
        then=mostly_to_the_end,
    )
    def overtake(
        self,
        at: int,
        family: int,
        names: list[str],
        amount: int,
        until: Stretch,
        skew_seconds: int,
        meanwhile: Stretch,
        then: Stretch,
    ) -> None:
        if len(self._idle()) > 1:
            self.write(family, names, amount, announces=False)
            written_meanwhile = dict.fromkeys(names, amount)
            self._overtake(at, self._family(family), until, skew_seconds, meanwhile, written_meanwhile, then)

    @rule(at=which, fault=st.sampled_from(FAULTS))
    def fail(self, at: int, fault: str) -> None:
        if not self._running():
            return
        drainer = _pick(self._running(), at)
        if fault == "crash":
            self._count("crashes")
            self._crash(drainer)
        elif fault == "PostgreSQL ends the connection":
            self._count("postgres_connections_ended")
            self._end_backend(drainer)
        elif fault == "COMMIT is not answered":
            self._lose_the_answer_to_its_commit(drainer)
        else:
            self._count("redis_connections_lost")
            self._end_redis_connection(drainer, is_claiming=fault == "Redis is lost to the claims")

    @rule(at=which, family=which, name=st.sampled_from(IDS), until=weak_points, back=st.integers(0, 3))
    def fail_over(self, at: int, family: int, name: str, until: Stretch, back: int) -> None:
        """A drainer stands still in the midst of its drain, and a replica takes over that lacks the latest writes.

        Only such as no barrier has confirmed. All connections are gone.
        """
        if not self.fail_overs_left:
            return
        self._count("fail_overs")
        self.fail_overs_left -= 1
        self._write(self._family(family), name, 1)
        self.earlier.append(self._copy())
        if idle := self._idle():
            self._start(_pick(idle, at), self._family(family), 0, FLAWLESS, until)
        elif movable := self._movable():
            self._go(_pick(movable, at), until)
        self._fence()
        self.earlier.append(self._copy())
        self.books, copy = self.earlier[-1 - back % len(self.earlier)]
        for drainer in self._running():
            for source in (drainer.drain.life.claiming, drainer.drain.life.releasing):
                _break_connection(source)
        with self.ground.redis.pipeline(transaction=True) as pipe:
            pipe.flushall()
            for key, ttl_ms, dump in copy:
                pipe.restore(key, ttl_ms, dump)
            pipe.execute()
        self.ground.drop_lives()
        for drainer in self.drainers:
            if drainer.drain:
                drainer.drain.may_fail_with += (RedisUnavailable,)
            elif drainer.life:
                drainer.life.__exit__()
                drainer.life = None
        self.earlier = []

    # what must hold

    @invariant()
    def the_books_are_right(self) -> None:
        self._fence()
        waiting, stored = self._look()
        note(f"  {[drainer.drain.label for drainer in self._running()]}")
        self.books.check(waiting, stored)
        late = {claim for claim in waiting.claimed if claim[0] in stored.ledger and claim not in stored.applied}
        self._count("late_keys", len(late - self.late))
        self.late |= late
        assert all(stored.totals[part] >= amount for part, amount in self.highest.items()), "a total went down"
        self.highest = stored.totals
        self.earlier.append(self._copy())

    def teardown(self) -> None:
        if sys.exc_info()[0] is not None:
            # A failure is on its way: nothing is asked any more, and nothing of this schedule is used again.
            self._abandon()
            return
        for drainer in sorted(self._running(), key=lambda drainer: not drainer.drain.is_waiting):
            self._crash(drainer)
        for drainer in self.drainers:
            if drainer.life:
                self.ground.keep(drainer.life)
        waiting, stored = self._bring_to_rest()
        self.books.check(waiting, stored)
        self.books.check_at_rest(waiting, stored)
        self.ground.tally.add(self.books, stored)

    def _abandon(self) -> None:
        for drainer in sorted(self._running(), key=lambda drainer: not drainer.drain.is_waiting):
            with suppress(Exception, Crash):
                self._crash(drainer)
        for drainer in self.drainers:
            if drainer.life:
                drainer.life.__exit__()

    def _bring_to_rest(self) -> tuple[InRedis, InPostgres]:
        """Quiet drains by a new process, three at most: one that recovers, one for what that claims anew, one to settle."""
        life = self.ground.life(SKEW_OF_THE_LAST_SECONDS)
        self._equip(Drainer(), life)
        for _ in range(3):
            for family in self.families:
                life.drain(family)
            waiting, stored = self._look()
            with suppress(AssertionError):
                self.books.check_at_rest(waiting, stored)
                break
        self.ground.keep(life)
        return waiting, stored

    # drainers

    def _running(self) -> list[Drainer]:
        return [drainer for drainer in self.drainers if drainer.drain]

    def _movable(self) -> list[Drainer]:
        return [drainer for drainer in self._running() if not drainer.drain.is_waiting]

    def _idle(self) -> list[Drainer]:
        return [drainer for drainer in self.drainers if not drainer.drain]

    def _family(self, at: int) -> str:
        return self.families[at % len(self.families)]

    def _start(self, drainer: Drainer, family: str, skew_seconds: int, flaws: Flaws, stretch: Stretch) -> None:
        drainer.life = drainer.life or self.ground.life(skew_seconds)
        drainer.flaws, drainer.barriers, drainer.questions = flaws, 0, 0
        self._equip(drainer, drainer.life)
        drainer.drain = SteppedDrain(drainer.life, family, self._waits_for_a_lock)
        if flaws.short_barrier:
            drainer.drain.may_fail_with += (BarrierFellShort,)
        self._count("drains")
        self._go(drainer, stretch)

    def _overtake(
        self,
        at: int,
        family: str,
        until: Stretch,
        skew_seconds: int,
        meanwhile: Stretch,
        written_meanwhile: dict[str, int],
        then: Stretch,
    ) -> None:
        """A drainer stands still in the midst of its drain, another drains the same family, and the first one goes on.

        What is written meanwhile it claims too late, for a batch that the other one has stored.
        """
        slow = _pick(self._idle(), at)
        self._start(slow, family, 0, FLAWLESS, until)
        self._start(_pick(self._idle(), at), family, skew_seconds, FLAWLESS, meanwhile)
        for name, amount in written_meanwhile.items():
            self._write(family, name, amount)
        if slow in self._movable():
            self._go(slow, then)

    def _equip(self, drainer: Drainer, life: Life) -> None:
        """A life's barriers protect from a fail-over here, or fall short; its scans are due, or not."""
        life.limits = DrainLimits(chunk_keys=CHUNK_KEYS, should_stop=lambda: self._should_stop(drainer))
        flaws = drainer.flaws
        for source in (life.claiming, life.releasing):
            source.barrier = lambda source=source: self._barrier(drainer, source)
            source._is_scan_due = lambda what: flaws.scans_claims if what.startswith("claim:") else flaws.scans_live

    def _barrier(self, drainer: Drainer, source: RedisSource) -> bool:
        """A replica has all that was written before. Writes on the drain's own connection first, as the real one does."""
        source._connection.call("SET", names.BARRIER, "1")
        drainer.barriers += 1
        if drainer.barriers == drainer.flaws.short_barrier:
            self._count("barriers_fell_short")
            return False
        self.earlier = [self._copy()]
        return True

    def _should_stop(self, drainer: Drainer) -> bool:
        drainer.questions += 1
        if drainer.questions == drainer.flaws.stop:
            self._count("stopped")
        return 0 < drainer.flaws.stop <= drainer.questions

    def _go(self, drainer: Drainer, stretch: Stretch) -> None:
        """Lets one drainer go on. Another that waits for a lock of it follows as soon as the lock is free, by one step."""
        drain = drainer.drain
        steps, labels = stretch
        while any(other.drain.is_waiting for other in self._running()):
            drain.go(ONE_STEP)
            settle_waiting([other.drain for other in self._running() if other is not drainer])
            steps -= 1
            if steps == 0 or drain.has_ended or drain.is_waiting or drain.label.startswith(labels):
                break
        else:
            drain.go((steps, labels))
        self._note_ends()

    def _note_ends(self) -> None:
        for drainer in self._running():
            if drainer.drain.has_ended:
                self._note_end(drainer)

    def _note_end(self, drainer: Drainer) -> None:
        drain = drainer.drain
        drainer.drain = None
        self._count("steps", drain.steps)
        # A process whose connection was broken has ended with its drain, even where the drain had no use for it any more.
        if {*drain.may_fail_with} - {BarrierFellShort}:
            drain.life.__exit__()
            drainer.life = None
        if drain.error is not None and not isinstance(drain.error, drain.may_fail_with):
            raise drain.error

    def _crash(self, drainer: Drainer) -> None:
        """The process is gone: its connections break, nothing more is sent, its transaction is rolled back."""
        drain = drainer.drain
        drain.may_fail_with += (Crash, psycopg.OperationalError, RedisUnavailable)
        if drain.is_waiting:
            self._end_backend(drainer)
        else:
            drain.life.postgres.close()
            for source in (drain.life.claiming, drain.life.releasing):
                source.close()
            self._wait_for_the_end_of(drain.backend_pid)
        if not drain.has_ended:
            drain.fail(Crash())
        self._settle_waiting()

    def _settle_waiting(self) -> None:
        """Locks may have become free."""
        self._note_ends()
        settle_waiting([drainer.drain for drainer in self._running()])
        self._note_ends()

    def _lose_the_answer_to_its_commit(self, drainer: Drainer) -> None:
        """PostgreSQL has committed, and the drainer cannot know."""
        drain = drainer.drain
        if not drain.is_waiting:
            self._go(drainer, (TO_ITS_END[0], ("after commit",)))
        if not drain.is_waiting and not drain.has_ended:
            self._count("commits_not_answered")
            drain.may_fail_with += (psycopg.OperationalError,)
            drain.life.postgres.close()
            drain.fail(psycopg.OperationalError("the connection was lost"))
            self._settle_waiting()

    def _end_redis_connection(self, drainer: Drainer, *, is_claiming: bool) -> None:
        drainer.drain.may_fail_with += (RedisUnavailable,)
        source = drainer.drain.life.claiming if is_claiming else drainer.drain.life.releasing
        self._fence()
        _break_connection(source)

    def _end_backend(self, drainer: Drainer) -> None:
        drainer.drain.may_fail_with += (psycopg.OperationalError,)
        self.ground.postgres.execute("select pg_terminate_backend(%s, 5000)", (drainer.drain.backend_pid,))
        self._settle_waiting()

    def _wait_for_the_end_of(self, pid: int) -> None:
        deadline = time.monotonic() + 10
        while self.ground.postgres.execute("select from pg_stat_get_activity(%s)", (pid,)).fetchone() is not None:
            assert time.monotonic() < deadline, "PostgreSQL keeps the transaction of a client that is gone"

    def _waits_for_a_lock(self, drain: SteppedDrain) -> bool:
        others = [other.drain for other in self._running() if other.drain is not drain]
        holders = [other.backend_pid for other in others if other.is_in_transaction]
        if not holders:
            return False
        query = "select pg_blocking_pids(%s) && %s::integer[]"
        [[is_waiting]] = self.ground.postgres.execute(query, (drain.backend_pid, holders)).fetchall()
        return bool(is_waiting)

    # servers

    def _look(self) -> tuple[InRedis, InPostgres]:
        return look_into_redis(self.ground.redis), look_into_postgres(self.ground.postgres)

    def _copy(self) -> tuple[Books, list[Any]]:
        return self.books.copy(), self.ground.redis.eval(_COPY, 0)

    def _fence(self) -> None:
        """What drainers have sent is carried out after this: Redis answers in one turn to all whose commands are there."""
        if any(drainer.drain.label.startswith("sent") for drainer in self._running()):
            self.ground.redis.ping()

    def _count(self, what: str, times: int = 1) -> None:
        self.ground.tally.counts[what] += times

    # writers

    def _write(self, family: str, name: str, amount: int, announces: bool = False) -> None:
        client = self.ground.redis
        if family == "event":
            for _ in range(amount):
                self._push(event_item(event_id=self._event_id(), api_key_id=name))
            return
        if family == "token":
            key = names.token_usage(name, INSTANCES[amount % 2])
            self._add_to_token(key, name, amount, datetime.now(UTC).isoformat())
        else:
            key = self._key(family, name)
            requests, size = ("total_requests" if family == "api_key" else "upload_count"), "total_file_size"
            if int(client.hget(key, size) or 0) > MAX_COUNT - 1_000 * amount:
                return
            client.hincrby(key, requests, amount)
            client.hincrby(key, size, amount * 1_000)
            self._remember(family, name, {requests: amount, size: amount * 1_000})
        if announces:
            client.sadd(names.touched(family), key)

    def _key(self, family: str, name: str) -> str:
        return names.api_key_metrics(name) if family == "api_key" else names.provider_metrics(name, "s3")

    def _add_to_token(self, key: str, name: str, amount: int, at: str) -> None:
        present = json.loads(self.ground.redis.get(key) or b'{"usageCount": 0}')["usageCount"]
        if present + amount <= MAX_COUNT:
            instance = key.removeprefix(f"token_usage:{name}:")
            usage = {"usageCount": present + amount, "lastUsedAt": at, "instanceId": instance}
            self.ground.redis.set(key, json.dumps(usage))
            self._remember("token", name, {"usage_count": amount})

    def _write_malformed(self, family: str, name: str) -> None:
        if family == "token":
            self._add_to_token(names.token_usage(name, INSTANCES[0]), name, 1, "never")
        else:
            self.ground.redis.hincrby(self._key(family, name), b"\xff", 1)
            self._remember(family, name, {"\\xff": 1})

    def _write_huge(self, family: str, name: str) -> None:
        """Twice is more than a total can hold."""
        if family == "token":
            self._add_to_token(names.token_usage(name, INSTANCES[0]), name, HUGE, datetime.now(UTC).isoformat())
        elif int(self.ground.redis.hget(self._key(family, name), "total_file_size") or 0) < HUGE:
            self.ground.redis.hincrby(self._key(family, name), "total_file_size", HUGE)
            self._remember(family, name, {"total_file_size": HUGE})

    def _write_wrong_type(self, family: str) -> None:
        self.serial += 1
        name = f"wrong {self.serial}"
        if family == "token":
            self.ground.redis.rpush(names.token_usage(name, INSTANCES[0]), "text")
        else:
            self.ground.redis.set(self._key(family, name), "text")
        self._remember(family, name, {WRONG_TYPE: 1})

    def _remember(self, family: str, name: str, amounts: dict[str, int]) -> None:
        if family == "provider":
            name = f"{name}:s3"
        self.books.written.update({Part(family, name, field): amount for field, amount in amounts.items()})

    def _push(self, item: bytes) -> None:
        if self.ground.redis.type(QUEUE) != b"string":
            self.ground.redis.rpush(QUEUE, item)
            self.books.pushed[item] += 1

    def _push_trouble(self, kind: str) -> None:
        self.serial += 1
        if kind == "malformed":
            self._push(b"no event %d" % self.serial)
        elif kind == "again":
            for item in [*self.books.pushed][-2:]:
                self._push(item)
        elif kind == "huge":
            # The same event with another payload.
            for item in [*self.books.pushed][-2:]:
                if part := event_part(item):
                    self._push(event_item(event_id=part.name, file_size=1_000 + self.serial))
        elif self.ground.redis.set(QUEUE, b"text %d" % self.serial, nx=True):
            self.books.pushed[b"wrong type text %d" % self.serial] += 1

    def _event_id(self) -> str:
        self.serial += 1
        return str(uuid.UUID(int=self.serial))


def _pick(some: Sequence[Drainer], at: int) -> Drainer:
    return some[at % len(some)]


# After ten examples Hypothesis begins to vary each five times before it draws another. A schedule is too large for that: the
# variants differ in what does not matter, so the runs are short, and each has a seed of its own.
_SCHEDULES_A_RUN = 10


def run_schedules(count: int, seed_number: int | None = None) -> Tally:
    """Runs `count` schedules on servers of its own. Raises what the first failure raises, shrunk to a short schedule.

    Several processes may do this at once. The same seed draws the same schedules.
    """
    folder = Path(tempfile.mkdtemp(prefix="usage-pipeline-schedules-"))
    try:
        with LocalServers(folder, durable=False) as servers:
            migrate(servers.database_url)
            settings = load_settings(database_url=servers.database_url, redis_url=servers.redis_url)
            with (
                closing(redis.Redis.from_url(servers.redis_url, single_connection_client=True)) as client,
                psycopg.connect(servers.database_url, autocommit=True) as postgres,
            ):
                return run_schedules_on(Ground(settings, client, postgres), count, seed_number)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run_schedules_on(ground: Ground, count: int, seed_number: int | None = None) -> Tally:
    """`run_schedules` on servers that are there, and are emptied. Only one at a time can use them."""
    phases = (Phase.generate, Phase.shrink)
    with repeatable_drains(ground), closing(ground):
        for number, first in enumerate(range(0, count, _SCHEDULES_A_RUN)):
            machine = type("DrainMachine", (DrainMachine,), {"ground": ground})
            if seed_number is not None:
                machine = seed(seed_number * 1_000_003 + number)(machine)
            profile = hypothesis_settings(
                max_examples=min(_SCHEDULES_A_RUN, count - first),
                stateful_step_count=STEPS,
                phases=phases,
                deadline=None,
                database=None,
                suppress_health_check=list(HealthCheck),
            )
            run_state_machine_as_test(machine, settings=profile)
    return ground.tally


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Random schedules of the drain on servers of their own.")
    parser.add_argument("--schedules", type=int, default=10_000)
    parser.add_argument("--seed", type=int)
    arguments = parser.parse_args()
    print(json.dumps(run_schedules(arguments.schedules, arguments.seed).document()))
