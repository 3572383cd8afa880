"""The service, and in each worker a watch on its event loop: how much later than asked a sleep of 10 ms ends, and why.

Linux says how long a thread was ready to run and got no core. What is left of a delay is our own: a callback that took long, or
a thread that held the interpreter.
"""

import asyncio
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from fastapi import FastAPI

from usage_pipeline.api.app import app_of_environment

INTERVAL_SECONDS = 0.01
# Where each worker notes what it saw.
FOLDER = "WORST_LOAD_FOLDER"
# Set: the service goes before all other processes.
REAL_TIME = "WORST_LOAD_REAL_TIME"
# From here on, a delay is a pause worth a look at who holds the interpreter.
_LONG_SECONDS = 0.1
_NOTE_SECONDS = 1.0


def app() -> FastAPI:
    """The service with the watch."""
    made = app_of_environment()
    inner = made.router.lifespan_context

    @asynccontextmanager
    async def watched(app: FastAPI) -> AsyncIterator[None]:
        async with inner(app):
            watching = asyncio.create_task(_watch(Path(os.environ[FOLDER], f"loop-{os.getpid()}.jsonl")))
            yield
            watching.cancel()

    made.router.lifespan_context = watched
    return made


def _take_the_cores() -> None:
    """All threads of this process before those of other processes, and its event loop before its own: as if cores were free."""
    for name in os.listdir("/proc/self/task"):
        is_loop = int(name) == os.getpid()
        with suppress(ProcessLookupError):
            os.sched_setscheduler(
                int(name), os.SCHED_FIFO if is_loop else os.SCHED_RR, os.sched_param(2 if is_loop else 1)
            )


def waited_for_a_core() -> float:
    """Seconds for which this thread was ready to run, and did not."""
    with open(f"/proc/self/task/{threading.get_native_id()}/schedstat", "rb") as numbers:
        return int(numbers.read().split()[1]) / 1e9


async def _watch(path: Path) -> None:
    with path.open("a") as notes:
        beat = _Beat()
        delays: list[tuple[float, float, float]] = []
        noted_at = time.monotonic()
        while True:
            before, for_core, busy = time.perf_counter(), waited_for_a_core(), time.thread_time()
            beat.at = before
            await asyncio.sleep(INTERVAL_SECONDS)
            late = time.perf_counter() - before - INTERVAL_SECONDS
            delays.append((late, waited_for_a_core() - for_core, time.thread_time() - busy))
            if time.monotonic() - noted_at >= _NOTE_SECONDS:
                if REAL_TIME in os.environ:
                    _take_the_cores()
                stacks, beat.stacks = beat.stacks, []
                notes.write(json.dumps({"delays": delays, "stacks": stacks}) + "\n")
                notes.flush()
                delays, noted_at = [], time.monotonic()


class _Beat:
    """A thread that looks at all others when the loop is late."""

    def __init__(self) -> None:
        self.at = time.perf_counter()
        self.stacks: list[dict[str, object]] = []
        self._loop_thread = threading.get_ident()
        threading.Thread(target=self._look, daemon=True).start()

    def _look(self) -> None:
        while True:
            time.sleep(INTERVAL_SECONDS)
            at = self.at
            late = time.perf_counter() - at - INTERVAL_SECONDS
            if late > _LONG_SECONDS / 2 and len(self.stacks) < 50:
                frames = {
                    ("loop" if ident == self._loop_thread else str(ident)): [
                        f"{Path(one.filename).name}:{one.lineno} {one.name}"
                        for one in traceback.extract_stack(frame)[-5:]
                    ]
                    for ident, frame in sys._current_frames().items()
                    if ident != threading.get_ident()
                }
                self.stacks.append({"late": late, "frames": frames})
