"""Faults of recorders: answers are lost, requests come late, Redis stalls, and the recording process is killed in a call."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from usage_recorder import Recorder

from usage_pipeline_tests.rigs.places import PROJECT
from usage_pipeline_tests.rigs.waiting import wait_until
from usage_pipeline_tests.torture.arena import Outcome, arena
from usage_pipeline_tests.torture.faulty_link import FAULTS, FaultyLink
from usage_pipeline_tests.torture.load import Counts
from usage_pipeline_tests.torture.servers import Stage

_PROCESSES = 2
_LONGEST_LIFE_SECONDS = 1.0
_RECORDS_OF_A_LIFE = 20


@dataclass(slots=True)
class Life:
    """What one recording process said before each record: (family, name, amount)."""

    process: "subprocess.Popen[str]"
    said: list[tuple[str, str, int]] = field(default_factory=list)
    reader: threading.Thread | None = None

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        if self.reader is not None:
            self.reader.join(30)

    def read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout:
            for line in self.process.stdout:
                family, name, amount = line.split()
                self.said.append((family, name, int(amount)))


def kill_recorders(stage: Stage, times: int, seed: int) -> Outcome:
    """Two processes record through a link that fails, each with a spool file; one is killed at a random moment and replaced."""
    chance, met = random.Random(seed), Counter[str]()
    with ExitStack() as stack:
        server = stack.enter_context(stage.running_redis())
        link = stack.enter_context(FaultyLink(server.port))
        here = stack.enter_context(arena(stage, server.port, seed))
        spools = [stage.folder / f"spool-{os.getpid()}-{number}" for number in range(_PROCESSES)]
        lives: list[Life] = []
        running = [_start(stack, lives, link, spools[number], seed) for number in range(_PROCESSES)]
        here.load.start()
        here.start_drainers()
        for number in range(times):
            place = number % _PROCESSES
            victim = running[place]
            wait_until(lambda life=victim: _has_recorded(life), "a recording process records")
            ends_at = time.monotonic() + chance.uniform(0.1, _LONGEST_LIFE_SECONDS)
            while time.monotonic() < ends_at:
                link.fault = chance.choice(FAULTS)
                met[link.fault] += 1
                if chance.random() < 0.2:
                    here.server.execute_command("CLIENT", "PAUSE", 150)
                    met["Redis paused"] += 1
                time.sleep(chance.uniform(0, 0.15))
                if chance.random() < 0.5:
                    link.release()
            victim.kill()
            link.fault = "none"
            running[place] = _start(stack, lives, link, spools[place], seed)
        for life in running:
            wait_until(lambda life=life: _has_recorded(life), "a recording process records")
            life.kill()
        for spool in spools:
            recorder = Recorder.connect(link.url, timeout_seconds=5, spool=spool)
            if not recorder.flush(60):
                raise RuntimeError(f"{recorder.kept} records are not written in a minute")
            recorder.close()
            if recorder.failures:
                raise RuntimeError(f"not recorded: {dict(recorder.failures)}")
        # What was delayed arrives now, after it was sent again.
        link.end_connections()
        note = ", ".join(f"{what} {count}" for what, count in met.items() if what != "none")
        return here.outcome(
            "recorders killed, stalled, and answered late",
            times,
            note,
            recorded=lambda stored: _recorded(lives, stored),
        )


def _start(stack: ExitStack, lives: list[Life], link: FaultyLink, spool: Path, seed: int) -> Life:
    module = "usage_pipeline_tests.torture.recording_process"
    command = [sys.executable, "-m", module, link.url, str(spool), f"life{len(lives)}", str(seed)]
    life = Life(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, cwd=PROJECT))
    lives.append(life)
    stack.callback(life.kill)
    life.reader = threading.Thread(target=life.read, daemon=True)
    life.reader.start()
    return life


def _has_recorded(life: Life) -> bool:
    if life.process.poll() is not None:
        raise RuntimeError(f"a recording process ended by itself with status {life.process.returncode}")
    return len(life.said) >= _RECORDS_OF_A_LIFE


def _recorded(lives: list[Life], stored: Counts) -> Counts:
    """What all lives recorded. Of the last record of each, which may have been made or not, what is stored decides."""
    counts = Counts()
    for life in lives:
        *surely, last = life.said
        for one in surely:
            counts.update(_counts(*one))
        counted = _counts(*last)
        if all(stored[place] == counts[place] + amount for place, amount in counted.items()):
            counts.update(counted)
    return counts


def _counts(family: str, name: str, amount: int) -> dict[tuple[str, str, str], int]:
    if family == "api_key":
        fields = {"total_requests": amount, "successful_requests": amount, "total_file_size": 10 * amount}
    elif family == "provider":
        fields = {"upload_count": amount}
    elif family == "token":
        fields = {"usage_count": amount}
    else:
        fields = {"events": 1, "file_size": amount}
    return {(family, name, one): count for one, count in fields.items()}
