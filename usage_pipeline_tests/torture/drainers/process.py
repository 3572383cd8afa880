"""The parent of the drain processes: imports everything once, then forks a drainer whenever it is asked to.

A fork costs some milliseconds where a new interpreter costs half a second, and each drainer is still a process with
connections of its own. Only this parent signals them, since a process id is no stranger's before its parent has reaped it.
It answers one line of JSON to each line of JSON; when its input ends it kills its drainers and ends.

Run by parent.py: python -m usage_pipeline_tests.torture.drainers.process
"""

import ctypes
import json
import logging
import mmap
import os
import signal
import struct
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta, timezone, tzinfo
from typing import Any

from usage_pipeline.drain.rounds import DrainImpossible, drain_once
from usage_pipeline.drain.sources.node import RedisSource
from usage_pipeline.drain.store import UsageStore
from usage_pipeline.settings import Settings, load_settings

_BATCH_ID_BYTES = 32
_BATCHES_NOTED = 8
_PR_SET_PDEATHSIG = 1
_AWAY_SECONDS = 0.02


class Notes:
    """What a drainer notes down for the time after its death, in memory that it shares with its parent."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 16 + _BATCH_ID_BYTES * _BATCHES_NOTED)

    @property
    def batches(self) -> int:
        return int(struct.unpack_from("q", self._memory, 0)[0])

    @property
    def rounds(self) -> int:
        return int(struct.unpack_from("q", self._memory, 8)[0])

    @property
    def last_batches(self) -> list[str]:
        """The ids of the last batches that it opened, unless it was killed while it noted one down."""
        found = []
        for place in range(_BATCHES_NOTED):
            start = 16 + place * _BATCH_ID_BYTES
            batch_id = self._memory[start : start + _BATCH_ID_BYTES].rstrip(b"\0")
            if batch_id:
                found.append(batch_id.decode())
        return found

    def note_batch(self, batch_id: str) -> None:
        start = 16 + self.batches % _BATCHES_NOTED * _BATCH_ID_BYTES
        self._memory[start : start + _BATCH_ID_BYTES] = batch_id.encode().ljust(_BATCH_ID_BYTES, b"\0")
        struct.pack_into("q", self._memory, 0, self.batches + 1)

    def note_round(self) -> None:
        struct.pack_into("q", self._memory, 8, self.rounds + 1)


@dataclass(frozen=True, slots=True)
class Order:
    """How a drainer is to be: its settings, families, whether it asks for the lock, and its clock."""

    settings: dict[str, Any]
    families: tuple[str, ...]
    asks_for_lock: bool
    clock_offset_seconds: float


def serve() -> None:
    """Carries out orders from the standard input until it ends."""
    drainers: dict[int, Notes] = {}
    try:
        for line in sys.stdin:
            print(json.dumps(_carry_out(json.loads(line), drainers)), flush=True)
    finally:
        for pid in drainers:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _carry_out(order: dict[str, Any], drainers: dict[int, Notes]) -> dict[str, Any]:
    if order["do"] == "start":
        notes = Notes()
        pid = _fork(Order(order["settings"], tuple(order["families"]), order["asks_for_lock"], order["clock"]), notes)
        drainers[pid] = notes
        return {"pid": pid}
    pid = order["pid"]
    if order["do"] == "look":
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            del drainers[pid]
            return {"ended": status}
        return {"ended": None, "batches": drainers[pid].batches, "rounds": drainers[pid].rounds}
    os.kill(pid, order["signal"])
    if order["signal"] != signal.SIGKILL:
        return {}
    _, status = os.waitpid(pid, 0)
    notes = drainers.pop(pid)
    return {"was_killed": os.WIFSIGNALED(status), "last_batches": notes.last_batches, "batches": notes.batches}


def _fork(order: Order, notes: Notes) -> int:
    parent = os.getpid()
    if pid := os.fork():
        return pid
    status = 1
    try:
        _die_with(parent)
        os.close(0)
        os.dup2(2, 1)
        _drain_for_ever(order, notes)
    except BaseException:
        traceback.print_exc()
    finally:
        # Not sys.exit: the buffers and the exit handlers are the parent's.
        sys.stderr.flush()
        os._exit(status)
    return 0


def _die_with(parent: int) -> None:
    """Where the kernel can: a drainer must not outlive a torture that was killed."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


class _AnyZone(Settings):
    """Settings whose time zone is a fixed distance to UTC, written as POSIX does: `<NAME>-02:44:57` is ahead of UTC."""

    @property
    def timezone(self) -> tzinfo:  # type: ignore[override]  # ZoneInfo has no zone of any offset
        behind, size = self.usage_timezone.partition(">")[2][0] == "+", self.usage_timezone[-8:]
        hours, minutes, seconds = map(int, size.split(":"))
        distance = timedelta(hours=hours, minutes=minutes, seconds=seconds)
        return timezone(-distance if behind else distance)


def settings_of(given: dict[str, Any]) -> Settings:
    """Settings by name. The time zone may be one of POSIX, which a user's settings refuse."""
    if not given["usage_timezone"].startswith("<"):
        return load_settings(**given)
    checked = load_settings(**{name: value for name, value in given.items() if name != "usage_timezone"})
    return _AnyZone.model_construct(**(dict(checked) | {"usage_timezone": given["usage_timezone"]}))


def _drain_for_ever(order: Order, notes: Notes) -> None:
    parent = os.getppid()
    settings = settings_of(order.settings)
    _note_batches(notes)
    if not order.asks_for_lock:
        UsageStore.lock = _no_lock  # type: ignore[method-assign]
    if order.clock_offset_seconds:
        shift_clock(order.clock_offset_seconds)
    while os.getppid() == parent:
        notes.note_round()
        _drain(settings, order)


def _drain(settings: Settings, order: Order) -> None:
    try:
        drain_once(settings, order.families)
    except DrainImpossible:
        # A server is away, or the barrier fell short: as `drain --watch`, only sooner.
        time.sleep(_AWAY_SECONDS)


def _note_batches(notes: Notes) -> None:
    open_batch = RedisSource.open_batch

    def open_and_note(source: RedisSource, family: str, batch_id: str) -> None:
        notes.note_batch(batch_id)
        open_batch(source, family, batch_id)

    RedisSource.open_batch = open_and_note  # type: ignore[method-assign]


@contextmanager
def _no_lock(store: UsageStore, family: str, *, wait_seconds: float = 0.0) -> Iterator[bool]:
    """The lock saves double work, and correctness must not depend on it: so some drainers do without."""
    yield True


def shift_clock(seconds: float) -> None:
    """This process's clock is so much ahead. (`datetime.now` cannot be changed; the drain does not ask it.)"""
    now, now_ns = time.time, time.time_ns
    time.time = lambda: now() + seconds
    time.time_ns = lambda: now_ns() + int(seconds * 1e9)


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR, format="%(asctime)s %(process)d %(message)s", stream=sys.stderr)
    serve()
