"""Faults of the drain processes themselves: SIGKILL at random moments, of forked drainers and of the command."""

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack

import psycopg

from usage_pipeline_tests.rigs.waiting import wait_until
from usage_pipeline_tests.torture import balance
from usage_pipeline_tests.torture.arena import Arena, Outcome, arena
from usage_pipeline_tests.torture.servers import RedisServer, Stage

_LONGEST_LIFE_SECONDS = 0.5
_LONGEST_LIFE_OF_COMMAND_SECONDS = 1.0


def kill_drainers(stage: Stage, times: int, seed: int) -> Outcome:
    """Three drainers at once, each killed at a random moment after its first claim and replaced."""
    chance, left = random.Random(seed), Counter[str]()
    with ExitStack() as stack:
        server = stack.enter_context(stage.running_redis())
        here = stack.enter_context(arena(stage, server.port, seed))
        postgres = stack.enter_context(here.postgres())
        here.load.start()
        here.start_drainers()
        for _ in range(times):
            # The oldest: so each of the three lives about three times as long as the pause between two kills.
            victim = here.drainers.running[0]
            here.drainers.wait_for_batches(victim)
            time.sleep(chance.uniform(0, _LONGEST_LIFE_SECONDS / 3))
            batch_ids = here.drainers.kill(victim)
            found = balance.left_by(postgres, here.server, batch_ids)
            left["claimed and not applied"] += found.is_claimed
            left["applied and not released"] += found.is_applied
            left["nothing"] += not (found.is_claimed or found.is_applied)
            here.drainers.start(asks_for_lock=victim.asks_for_lock)
        return here.outcome("SIGKILL of a drain process", times, _note(left))


def kill_commands(stage: Stage, times: int, seed: int) -> Outcome:
    """The same with the command itself, `usage-pipeline drain --watch`, one after the other."""
    chance, left = random.Random(seed), Counter[str]()
    with ExitStack() as stack:
        server = stack.enter_context(stage.running_redis())
        here = stack.enter_context(arena(stage, server.port, seed))
        postgres = stack.enter_context(here.postgres())
        here.load.start()
        for _ in range(times):
            victim = _start_command(here, server, stack)
            name = f"{socket.gethostname()}:{victim.pid}"
            _wait_for_batch(postgres, name)
            time.sleep(chance.uniform(0, _LONGEST_LIFE_OF_COMMAND_SECONDS))
            if victim.poll() is not None:
                raise RuntimeError(f"drain --watch ended by itself with status {victim.returncode}")
            victim.send_signal(signal.SIGKILL)
            victim.wait()
            [(unreleased,)] = postgres.execute(
                "select count(*) from ops.sync_batches where released_at is null and drained_by = %s", (name,)
            ).fetchall()
            left["applied and not released" if unreleased else "nothing, or claimed and not applied"] += 1
        return here.outcome("SIGKILL of `usage-pipeline drain --watch`", times, _note(left))


def _start_command(here: Arena, server: RedisServer, stack: ExitStack) -> "subprocess.Popen[bytes]":
    environment = {
        **os.environ,
        "DATABASE_URL": here.database_url,
        "REDIS_URL": server.url,
        "DRAIN_CHUNK_KEYS": "20",
        "METRICS_SYNC_INTERVAL_MS": "100",
        "API_TOKEN_SYNC_INTERVAL_MS": "100",
    }
    command = [sys.executable, "-c", "from usage_pipeline.cli import main; main()", "drain", "--watch"]
    with (here.stage.folder / "commands.log").open("ab") as log:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    stack.callback(_end, process)
    return process


def _wait_for_batch(postgres: psycopg.Connection, drained_by: str) -> None:
    query = "select from ops.sync_batches where drained_by = %s limit 1"
    wait_until(lambda: postgres.execute(query, (drained_by,)).rowcount, "drain --watch stores a batch")


def _end(command: "subprocess.Popen[bytes]") -> None:
    if command.poll() is None:
        command.kill()
        command.wait()


def _note(left: Counter[str]) -> str:
    return "left behind: " + ", ".join(f"{what} {count}" for what, count in left.items())
