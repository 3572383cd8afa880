"""Random schedules of the drain: writers, several drainers, crashes, fail-over of Redis, lifecycles of days; on real servers.

Each drainer stands still at every Redis round trip and every SQL statement, and Hypothesis draws who goes on, how far, and
what fails there. After each rule the books must be right to the last unit (books.py); at the end quiet drains must
bring everything to rest. A schedule is run again exactly by what was drawn, so a failure shrinks.

As a program it runs as many schedules as it is told, on servers of its own, and prints a tally as JSON:
    python usage_pipeline_tests/drain/state_machine/machine.py --schedules 10000 --seed 1
"""

import argparse
import json
import signal
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import psycopg
import redis
from hypothesis import HealthCheck, Phase, note, seed
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule, run_state_machine_as_test

from usage_pipeline import redis_keys as names
from usage_pipeline.drain.protocol import BarrierFellShort, DrainLimits
from usage_pipeline.drain.sources.node import RedisSource
from usage_pipeline.local.servers.both import LocalServers
from usage_pipeline.settings import load_settings
from usage_pipeline.storage.migrations import migrate
from usage_pipeline.storage.redis import RedisUnavailable
from usage_pipeline_tests.drain.rig import Crash, Life
from usage_pipeline_tests.drain.state_machine.books import (
    Books,
    Drained,
    InPostgres,
    InRedis,
    Part,
    look_into_postgres,
    look_into_redis,
)
from usage_pipeline_tests.drain.state_machine.day_rules import DayRules
from usage_pipeline_tests.drain.state_machine.days import DAYS_AGO, Days
from usage_pipeline_tests.drain.state_machine.ground import (
    CHUNK_KEYS,
    Ground,
    Tally,
    break_connection,
    repeatable_drains,
)
from usage_pipeline_tests.drain.state_machine.schedule_writer import IDS, TROUBLE, ScheduleWriter
from usage_pipeline_tests.drain.state_machine.stepped import ONE_STEP, TO_ITS_END, SteppedDrain, Stretch, settle_waiting
from usage_pipeline_tests.rigs.places import servers_folder
from usage_pipeline_tests.rigs.waiting import wait_until

SECONDS_OF_SKEW = (0, 0, 0, 300, -300)
# A last drain finds what drainers with a fast clock have begun, and old enough to be settled.
SKEW_OF_THE_LAST_SECONDS = 600
MOST_DRAINERS = 4
STEPS = 25

# Where a drainer is worth stopping: around each step that changes something for good, or decides.
POINTS = (
    "sent EVAL local words",
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
# Where another drainer can do most harm: between the scan of a recovery and what follows from it, among the renames of one
# batch, and between its claim, its storing and its release.
_CLAIMED = ("sent EVAL local renamed",)
weak_points = st.sampled_from(
    (
        _CLAIMED,
        _CLAIMED,
        _CLAIMED,
        ("sent EVAL local words",),
        ("sent EVAL local words",),
        ("before EVAL local renamed",),
        ("before SET usage_pipeline:barrier",),
        ("before sql -- The ledger row",),
        ("before commit",),
        ("after commit",),
        ("sent UNLINK usage_pipeline:claim",),
        ("before sql -- The keys of these",),
    )
).map(lambda labels: (TO_ITS_END[0], labels))
far = st.one_of(st.just(TO_ITS_END), weak_points, stretches)
FAULTS = (
    "crash",
    "crash",
    "PostgreSQL ends the connection",
    "COMMIT is not answered",
    "COMMIT is not answered",
    "Redis is lost to the claims",
    "Redis is lost to the releases",
)
amounts = st.sampled_from((1, 2, 3, 5, 8))
which = st.integers(0, MOST_DRAINERS - 1)


@dataclass(frozen=True, slots=True)
class Flaws:
    """What goes on around one drain. `short_barrier`: which one is not confirmed; `stop`: when it is asked to stop.

    `budget`: after so many steps its time is used up.
    """

    short_barrier: int = 0
    stop: int = 0
    budget: int = 1_000_000
    scans_live: bool = True
    scans_claims: bool = True


FLAWLESS = Flaws()
flaws = st.builds(
    Flaws,
    short_barrier=st.sampled_from((0, 0, 0, 1, 2, 3)),
    stop=st.sampled_from((0, 0, 0, 1, 2, 3)),
    budget=st.one_of(st.just(1_000_000), st.integers(0, 120)),
    scans_live=st.sampled_from((True, True, False)),
    scans_claims=st.sampled_from((True, True, False)),
)


@dataclass(slots=True)
class Drainer:
    """One of the drainer processes of a schedule: its life, once it is started, and what it is at."""

    life: Life | None = None
    drain: SteppedDrain | None = None
    flaws: Flaws = FLAWLESS
    barriers: int = 0
    questions: int = 0


class DrainMachine(DayRules):
    """See the module. `ground` is set by `run_schedules_on`."""

    ground: Ground

    def __init__(self) -> None:
        super().__init__()
        self.ground.clear()
        self.writer = ScheduleWriter(self.ground.redis, Books())
        self.families: tuple[str, ...] = ()
        self.drainers: list[Drainer] = []
        self.fail_overs_left = 0
        self.late: set[tuple[str, bytes]] = set()
        self.earlier: list[tuple[Books, list[Any]]] = []
        self.drained = Drained()
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
        # Days cost as much as the rest of a schedule, so a share of the schedules has them.
        days_ago=st.sampled_from((None, None, None, None, None, *DAYS_AGO)),
        # Of one to three keys, so that half of the batches are stored in parts.
        room_bytes=st.sampled_from((None, None, 250, 500)),
        amount=amounts,
        announces=st.booleans(),
        until=weak_points,
        meanwhile=far,
        then=far,
        at_last=far,
    )
    def begin(
        self,
        families: tuple[str, ...],
        drainers: int,
        fail_overs: int,
        days_ago: int | None,
        room_bytes: int | None,
        amount: int,
        announces: bool,
        until: Stretch,
        meanwhile: Stretch,
        then: Stretch,
        at_last: Stretch,
    ) -> None:
        self.ground.set_room(room_bytes)
        if days_ago is not None:
            self.days = self.ground.begin_days(families)
            self.writer.days_ago = days_ago
        self.families, self.fail_overs_left = families, fail_overs
        self.drainers = [Drainer() for _ in range(drainers)]
        for family in families:
            for name in IDS:
                self.writer.write(family, name, amount, announces)
        self.earlier = [self._copy()]
        self._overtake(0, families[0], 0, dict.fromkeys(IDS, amount), (until, meanwhile, then, at_last))

    @rule(
        family=which,
        names=st.lists(st.sampled_from(IDS), min_size=1, max_size=4),
        amount=amounts,
        announces=st.booleans(),
    )
    def write(self, family: int, names: list[str], amount: int, announces: bool) -> None:
        for name in names:
            self.writer.write(self._family(family), name, amount, announces)

    @rule(family=which, name=st.sampled_from(IDS), kind=st.sampled_from(TROUBLE))
    def write_trouble(self, family: int, name: str, kind: str) -> None:
        self.writer.write_trouble(self._family(family), name, kind)

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
        meanwhile=far,
        then=far,
        at_last=far,
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
        at_last: Stretch,
    ) -> None:
        if len(self._idle()) > 1:
            self.write(family, names, amount, announces=False)
            stretches = (until, meanwhile, then, at_last)
            self._overtake(at, self._family(family), skew_seconds, dict.fromkeys(names, amount), stretches)

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
        self.writer.write(self._family(family), name, 1)
        self.earlier.append(self._copy())
        if idle := self._idle():
            self._start(_pick(idle, at), self._family(family), 0, FLAWLESS, until)
        elif movable := self._movable():
            self._go(_pick(movable, at), until)
        self._fence()
        self.earlier.append(self._copy())
        self.writer.books, copy = self.earlier[-1 - back % len(self.earlier)]
        for drainer in self._running():
            for source in (drainer.drain.life.claiming, drainer.drain.life.releasing):
                break_connection(source)
        self.ground.restore_redis(copy)
        self.ground.drop_lives()
        for drainer in self.drainers:
            if drainer.drain:
                drainer.drain.may_fail_with += (RedisUnavailable,)
            elif drainer.life:
                drainer.life.__exit__()
                drainer.life = None
        self.earlier = []

    @rule(at=st.integers(0, 20), is_set=st.sampled_from((True, True, False)), amount=amounts)
    def replay(self, at: int, is_set: bool, amount: int) -> None:
        """Somebody replays a dead letter, with a value that can count, or as it is. If there is none, one comes about."""
        letters = self._look()[1].open_letters
        if not any(letter.member for letter in letters.values()):
            self.writer.write_trouble(self._family(at), IDS[at % len(IDS)], "odd member")
            return
        if is_set:
            letters = {number: letter for number, letter in letters.items() if letter.member}
        number = sorted(letters)[at % len(letters)]
        letter, changes = letters[number], dict[str, str]()
        if is_set and letter.member in ("total_file_size", "usageCount"):
            changes[letter.member] = str(amount)
        elif is_set and letter.member in ("at", "lastUsedAt"):
            changes[letter.member] = datetime.now(UTC).isoformat()
        is_counted = self.ground.replay(number, changes)
        if not is_counted:
            return
        self._count("corrected" if changes else "replayed")
        if letter.member in ("total_file_size", "usageCount"):
            # It counts as if it had been written so, whatever Redis forgets of it.
            for part, refused in letter.amounts.items():
                for books in (self.writer.books, *(books for books, _ in self.earlier)):
                    books.written[part] += amount - refused

    # what must hold

    @invariant()
    def the_books_are_right(self) -> None:
        self._fence()
        waiting, stored = self._look()
        note(f"  {[drainer.drain.label for drainer in self._running()]}")
        self._check(waiting, stored)
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
        self._check(waiting, stored)
        self.writer.books.check_at_rest(waiting, stored)
        if self.days:
            self._end_days(self.days)
        self.ground.tally.add(self.writer.books, stored, self.drained)

    def _check(self, waiting: InRedis, stored: InPostgres) -> None:
        self.drained.look(stored)
        if self.days:
            self.days.note_forgotten(self.drained)
            self.days.check(stored, self.drained)
        else:
            assert stored.deltas.keys() == self.drained.deltas.keys(), "raw rows are gone"
            assert stored.events.keys() == self.drained.events.keys(), "request events are gone"
        self.writer.books.check(waiting, stored, self.drained)

    def _end_days(self, days: Days) -> None:
        """All is rolled up, and then dropped, and the numbers stay."""
        days.bring_to_rest()
        self._check(*self._look())
        days.drop_all()
        waiting, stored = self._look()
        self._check(waiting, stored)
        assert not stored.deltas, "raw rows are kept for ever"
        self._count("schedules_with_days")
        self.ground.tally.counts.update(days.counts)

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
                self.writer.books.check_at_rest(waiting, stored)
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

    def _drain_quietly(self, family: str) -> None:
        """An idle drainer, if there is one, drains without trouble, unless it waits for a lock."""
        if idle := self._idle():
            self._start(idle[0], family, 0, FLAWLESS, TO_ITS_END)
            self.drained.look(self._look()[1])

    def _look_at_days(self) -> None:
        """Within a rule: what comes next is counted as coming after this."""
        self._fence()
        self._check(*self._look())

    def _overtake(
        self,
        at: int,
        family: str,
        skew_seconds: int,
        written_meanwhile: dict[str, int],
        stretches: tuple[Stretch, Stretch, Stretch, Stretch],
    ) -> None:
        """Two drainers of one family in turn: the first stops on its way, the second goes, the first again, the second again.

        What is written after the second's first turn, the first claims too late: for a batch that may be stored already.
        """
        until, meanwhile, then, at_last = stretches
        first = _pick(self._idle(), at)
        self._start(first, family, 0, FLAWLESS, until)
        second = _pick(self._idle(), at)
        self._start(second, family, skew_seconds, FLAWLESS, meanwhile)
        for name, amount in written_meanwhile.items():
            self.writer.write(family, name, amount)
        for drainer, stretch in ((first, then), (second, at_last)):
            if drainer in self._movable():
                self._go(drainer, stretch)

    def _equip(self, drainer: Drainer, life: Life) -> None:
        """A life's barriers protect from a fail-over here, or fall short; its scans are due, or not."""
        life.limits = DrainLimits(chunk_keys=CHUNK_KEYS, should_stop=lambda: self._should_stop(drainer))
        flaws = drainer.flaws
        for source in (life.claiming, life.releasing):
            source.barrier = lambda source=source: self._barrier(drainer, source)
            source._is_scan_due = lambda what: flaws.scans_claims if what.startswith("claim:") else flaws.scans_live

    def _barrier(self, drainer: Drainer, source: RedisSource) -> bool:
        """The real one's two round trips on the drain's own connection; in between a replica gets all that was written.

        Not after them: the answer to WAIT may be under way while Redis fails over.
        """
        source._connection.call("SET", names.BARRIER, "1")
        drainer.barriers += 1
        is_confirmed = drainer.barriers != drainer.flaws.short_barrier
        if is_confirmed:
            self.earlier = [self._copy()]
        else:
            self._count("barriers_fell_short")
        source._connection.call("WAIT", 0, 0)
        return is_confirmed

    def _should_stop(self, drainer: Drainer) -> bool:
        drainer.questions += 1
        if drainer.questions == drainer.flaws.stop:
            self._count("stopped")
        if drainer.drain and drainer.drain.steps >= drainer.flaws.budget:
            self._count("budgets_used_up")
            return True
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
        break_connection(source)

    def _end_backend(self, drainer: Drainer) -> None:
        drainer.drain.may_fail_with += (psycopg.OperationalError,)
        self.ground.postgres.execute("select pg_terminate_backend(%s, 5000)", (drainer.drain.backend_pid,))
        self._settle_waiting()

    def _wait_for_the_end_of(self, pid: int) -> None:
        query = "select from pg_stat_get_activity(%s)"
        wait_until(
            lambda: self.ground.postgres.execute(query, (pid,)).fetchone() is None,
            "PostgreSQL ends the transaction of a client that is gone",
            10,
        )

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
        return self.writer.books.copy(), self.ground.copy_redis()

    def _fence(self) -> None:
        """What drainers have sent is carried out after this: Redis answers in one turn to all whose commands are there."""
        if any(drainer.drain.label.startswith("sent") for drainer in self._running()):
            self.ground.redis.ping()

    def _count(self, what: str, times: int = 1) -> None:
        self.ground.tally.counts[what] += times


def _pick(some: Sequence[Drainer], at: int) -> Drainer:
    return some[at % len(some)]


# After ten examples Hypothesis begins to vary each five times before it draws another. A schedule is too large for that: the
# variants differ in what does not matter, so the runs are short, and each has a seed of its own.
_SCHEDULES_A_RUN = 10


def run_schedules(count: int, seed_number: int | None = None) -> Tally:
    """Runs `count` schedules on servers of its own. Raises what the first failure raises, shrunk to a short schedule.

    Several processes may do this at once. The same seed draws the same schedules.
    """
    with servers_folder() as folder, LocalServers(folder, durable=False) as servers:
        migrate(servers.database_url)
        settings = load_settings(database_url=servers.database_url, redis_url=servers.redis_url)
        with (
            closing(redis.Redis.from_url(servers.redis_url, single_connection_client=True)) as client,
            psycopg.connect(servers.database_url, autocommit=True) as postgres,
        ):
            return run_schedules_on(Ground(settings, client, postgres), count, seed_number)


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
    # So that the servers end too. Anything but a KeyboardInterrupt Hypothesis would take for a failure, and shrink.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    print(json.dumps(run_schedules(arguments.schedules, arguments.seed).document()))
