"""Faults of time: counters whose TTL runs out while their claims wait, and hosts whose clocks disagree."""

import random
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta, timezone

import psycopg
import redis

from usage_pipeline.drain.rounds import ALL_FAMILIES
from usage_pipeline_tests.rigs.waiting import wait_until
from usage_pipeline_tests.torture import balance
from usage_pipeline_tests.torture.arena import Arena, Outcome, arena
from usage_pipeline_tests.torture.load import LoadPlan
from usage_pipeline_tests.torture.servers import Stage

_TTL_SECONDS = 2
_BURST = 15
_LIVE = ("apikey:*:metrics", "provider:*:metrics", "token_usage:*", "event_queue")
_APART_SECONDS = 300
_MIDNIGHT_SECONDS = 120
_SECONDS_OF_LOAD = 1.0


def expire_claims(stage: Stage, times: int, seed: int) -> Outcome:
    """Writers give their counters a TTL of two seconds; the drainers that claim them are stopped or killed for longer.

    What is not claimed in time Redis may expire. So each round waits until all is claimed, and asserts that it was in
    time; PostgreSQL is locked meanwhile, so that nothing can be applied.
    """
    plan = LoadPlan(writers=4, ttl_seconds=_TTL_SECONDS)
    chance, late = random.Random(seed), 0
    with ExitStack() as stack:
        server = stack.enter_context(stage.running_redis())
        here = stack.enter_context(arena(stage, server.port, seed, plan=plan, chunk_keys=1_000))
        for number in range(times):
            with _nothing_is_applied(here):
                started_ms = _now_ms(here.server)
                here.load.burst(_BURST)
                # After the burst: a drainer that cannot apply claims no more than what it finds at first. And one for each
                # family, since it does not get to the next one either.
                for family in ALL_FAMILIES:
                    here.drainers.start(families=[family])
                wait_until(lambda: not _live(here.server), "everything is claimed")
                claimed_ms = _now_ms(here.server)
                late += claimed_ms >= started_ms + _TTL_SECONDS * 1_000
                deadline_ms = claimed_ms + _TTL_SECONDS * 1_000
                is_pause = number % 2 == 0
                if is_pause:
                    here.drainers.signal_all(signal.SIGSTOP)
                else:
                    here.drainers.kill_all()
                wait_until(lambda deadline_ms=deadline_ms: _now_ms(here.server) > deadline_ms, "the TTL is over")
            if is_pause:
                here.drainers.signal_all(signal.SIGCONT)
                time.sleep(chance.uniform(0, 0.1))
                here.drainers.kill_all()
            # The next round's drainers would be kept from claiming by what this one's left.
            balance.drain_until_rest(here.settings)
        if late:
            raise RuntimeError(f"in {late} rounds not everything was claimed before its TTL; the machine is too slow")
        return here.outcome("TTLs run out while claims wait", times, "half of the drainers stopped, half killed")


def shift_clocks(stage: Stage, times: int, seed: int) -> Outcome:
    """Drainers and writers five minutes ahead, five behind, and right, two minutes before a midnight and two after one.

    A day is that of the earlier of a counter's stamp and its claim, which Redis's clock stamps: who is ahead counts for
    today, who is behind for the day of his own clock.
    """
    found = [_shift_clocks(stage, seed + number, is_before_midnight=number % 2 == 0) for number in range(max(2, times))]
    wrong_days = sum((outcome.problems for outcome in found), ())
    return replace(
        found[0],
        times=len(found),
        written=sum(outcome.written for outcome in found),
        stored=sum(outcome.stored for outcome in found),
        lost=sum(outcome.lost for outcome in found),
        doubled=sum(outcome.doubled for outcome in found),
        problems=wrong_days,
    )


def _shift_clocks(stage: Stage, seed: int, *, is_before_midnight: bool) -> Outcome:
    offsets = (0, _APART_SECONDS, -_APART_SECONDS)
    # Two writers, one of each kind, by each clock; a time zone in which midnight is near, whatever the time is now.
    plan = LoadPlan(writers=6, clock_offsets_ms=[offset * 1_000 for offset in offsets for _ in range(2)])
    zone, zone_name = _zone_with_midnight_in(_MIDNIGHT_SECONDS if is_before_midnight else -_MIDNIGHT_SECONDS)
    with ExitStack() as stack:
        server = stack.enter_context(stage.running_redis())
        here = stack.enter_context(arena(stage, server.port, seed, plan=plan, usage_timezone=zone_name))
        here.load.start()
        for number, offset in enumerate(offsets):
            here.drainers.start(clock_offset_seconds=offset, asks_for_lock=number > 0)
        time.sleep(_SECONDS_OF_LOAD)
        today = datetime.now(zone).date()
        outcome = here.outcome("clocks five minutes apart", 1, "before and after a midnight")
        if datetime.now(zone).date() != today:
            raise RuntimeError("midnight came while this ran; the machine is too slow")
        with here.postgres() as postgres:
            wrong = _wrong_days(here, postgres, zone, today)
        return replace(outcome, problems=(*outcome.problems, *wrong))


def _wrong_days(here: Arena, postgres: psycopg.Connection, zone: timezone, today: date) -> list[str]:
    """Names are of one writer each, and so of one clock."""
    expected = {
        (family, name, min(datetime.fromtimestamp(write.at_ms / 1000, zone).date(), today))
        for writer in here.load.writers
        for write in writer.writes
        for family, name, _ in write.counts
    }
    stored = set()
    for family, table, name in (
        ("api_key", "raw.api_key_deltas", "api_key_id"),
        ("provider", "raw.provider_deltas", "api_key_id"),
        ("token", "raw.token_deltas", "token_id"),
        ("event", "raw.request_events", "api_key_id"),
    ):
        rows = postgres.execute(f"select distinct {name}, usage_date from {table}")
        stored.update((family, name, day) for name, day in rows)
    return [f"on a wrong day: {wrong}" for wrong in sorted(expected ^ stored)[:3]]


def _zone_with_midnight_in(seconds: int) -> tuple[timezone, str]:
    """A time zone in which it is midnight then (before now, if negative), and its name as PostgreSQL takes it."""
    now = datetime.now(UTC)
    offset = timedelta(days=1, seconds=-seconds - (now.hour * 3_600 + now.minute * 60 + now.second))
    offset %= timedelta(days=1)
    if offset > timedelta(hours=12):
        offset -= timedelta(days=1)
    total = int(offset.total_seconds())
    # POSIX counts westward: the sign is the other way round.
    sign, size = ("-" if total >= 0 else "+"), abs(total)
    return timezone(offset), f"<TORTURE>{sign}{size // 3_600:02d}:{size // 60 % 60:02d}:{size % 60:02d}"


@contextmanager
def _nothing_is_applied(here: Arena) -> Iterator[None]:
    """Every transaction that stores waits for one of these; what a drain asks before it claims does not."""
    with here.postgres() as postgres, postgres.transaction():
        postgres.execute(
            "lock table usage.api_keys, usage.provider_usage, usage.api_access_tokens, raw.request_event_ids"
            " in share row exclusive mode"
        )
        yield


def _live(server: redis.Redis) -> bool:
    return any(True for pattern in _LIVE for _ in server.scan_iter(pattern, count=1_000))


def _now_ms(server: redis.Redis) -> int:
    seconds, microseconds = server.time()
    return int(seconds) * 1_000 + int(microseconds) // 1_000
