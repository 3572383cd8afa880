"""Faults of Redis: killed and restarted with its append-only file, and a primary that is killed while its replica lags."""

import random
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from usage_pipeline_tests.torture.arena import Outcome, arena
from usage_pipeline_tests.torture.faults.failover import Pair
from usage_pipeline_tests.torture.servers import AOF_ALWAYS, AOF_EVERYSEC, NO_PERSISTENCE, Stage, valkey_executable

# Where a barrier takes a second, small batches would take minutes.
_LARGE_CHUNK_KEYS = 1_000
_LONGEST_LAG_SECONDS = 0.08


def restart_always(stage: Stage, times: int, seed: int) -> Outcome:
    """`appendfsync always`: an answer is durable, and no barrier is needed."""
    return _restart(stage, times, seed, "Redis killed and restarted, AOF always", AOF_ALWAYS)


def restart_waitaof(stage: Stage, times: int, seed: int) -> Outcome:
    """`everysec` on a server that has WAITAOF."""
    return _restart(
        stage,
        times,
        seed,
        "Valkey killed and restarted, AOF everysec (WAITAOF)",
        AOF_EVERYSEC,
        executable=valkey_executable(),
        chunk_keys=_LARGE_CHUNK_KEYS,
        longest_life_seconds=3.0,
    )


def restart_age(stage: Stage, times: int, seed: int) -> Outcome:
    """`everysec` on a server without WAITAOF: claims are applied when they are three seconds old."""
    return _restart(
        stage,
        times,
        seed,
        "Redis 6.2 killed and restarted, AOF everysec (age)",
        AOF_EVERYSEC,
        chunk_keys=_LARGE_CHUNK_KEYS,
        longest_life_seconds=5.0,
    )


def fail_over_with_wait(stage: Stage, times: int, seed: int) -> Outcome:
    """DRAIN_BARRIER=auto with a replica, which is WAIT."""
    return _fail_over(stage, times, seed, "fail-over to a lagging replica, WAIT on", "auto")


def fail_over_without_wait(stage: Stage, times: int, seed: int) -> Outcome:
    """DRAIN_BARRIER=none: counted twice is what the fail-over forgot, and every difference must be flagged."""
    return _fail_over(stage, times, seed, "fail-over to a lagging replica, WAIT off", "none")


def _restart(
    stage: Stage,
    times: int,
    seed: int,
    fault: str,
    config: Sequence[str],
    *,
    executable: Path | None = None,
    chunk_keys: int = 20,
    longest_life_seconds: float = 0.8,
) -> Outcome:
    chance, server = random.Random(seed), stage.redis(config, executable=executable)
    with ExitStack() as stack:
        stack.callback(server.stop)
        server.start()
        here = stack.enter_context(arena(stage, server.port, seed, chunk_keys=chunk_keys))
        here.load.start()
        here.start_drainers()
        for _ in range(times):
            time.sleep(chance.uniform(0, longest_life_seconds))
            server.kill()
            server.start()
        outcome = here.outcome(fault, times)
        if not here.load.forgotten:
            return outcome
        if config == AOF_ALWAYS:
            # A killed process loses nothing that it has handed to the kernel, and this one does that before it answers.
            raise RuntimeError(f"Redis forgot {here.load.forgotten} writes: these are not the faults that were meant")
        # With `everysec` it answers first when the disk is slow.
        return replace(outcome, note=f"Redis itself forgot {here.load.forgotten} answered writes")


def _fail_over(stage: Stage, times: int, seed: int, fault: str, barrier: str) -> Outcome:
    chance = random.Random(seed)
    with ExitStack() as stack:
        pair = stack.enter_context(Pair(stage, NO_PERSISTENCE))
        here = stack.enter_context(arena(stage, pair.front.port, seed, barrier=barrier))
        here.load.start()
        here.start_drainers()
        for number in range(times):
            # A round that began while there was no replica knows of none to wait for.
            here.drainers.wait_for_new_rounds()
            time.sleep(chance.uniform(0, 0.3))
            pair.link.hold()
            time.sleep(chance.uniform(0, _LONGEST_LAG_SECONDS))
            pair.fail_over()
            if number < times - 1:
                time.sleep(chance.uniform(0, 0.2))
                pair.rejoin()
        outcome = here.outcome(fault, times, may_double=barrier == "none")
        with here.postgres() as postgres:
            [(batches, uncertain)] = postgres.execute(
                "select count(*), count(*) filter (where is_uncertain) from ops.sync_batches"
            ).fetchall()
        return replace(
            outcome,
            note=f"{uncertain} of {batches} batches flagged; Redis itself forgot {here.load.forgotten} answered writes",
        )
