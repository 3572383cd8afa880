"""Drain processes: started, signalled and looked at through the parent that forks them (process.py)."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from usage_pipeline.drain.rounds import ALL_FAMILIES
from usage_pipeline_tests.rigs.places import PROJECT
from usage_pipeline_tests.rigs.waiting import wait_until


class DrainerEnded(Exception):
    """A drain process ended by itself; the message is what it wrote last."""


class DrainerParent:
    """The process that forks them, and its orders: one line of JSON each way."""

    def __init__(self, folder: Path) -> None:
        self._log = folder / "drainers.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "usage_pipeline_tests.torture.drainers.process"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                # Ctrl-C is for the torture, which then ends its drainers in order.
                start_new_session=True,
                cwd=PROJECT,
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input, self._output = self._process.stdin, self._process.stdout

    def order(self, order: dict[str, Any]) -> dict[str, Any]:
        """Raises DrainerEnded when the parent itself is gone."""
        try:
            self._input.write(json.dumps(order) + "\n")
            self._input.flush()
            line = self._output.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise DrainerEnded(f"the parent of the drain processes ended\n{self.log_tail()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """Ends it; it kills what it has forked."""
        with suppress(BrokenPipeError):
            self._input.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._output.close()

    def log_tail(self, lines: int = 30) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-lines:])


@dataclass(slots=True)
class Drainer:
    """A drain process; `started` is time.monotonic()."""

    pid: int
    started: float
    asks_for_lock: bool


class Drainers:
    """The drain processes of one fault, which all end with it."""

    def __init__(self, parent: DrainerParent, settings: dict[str, Any]) -> None:
        self._parent = parent
        self._settings = settings
        self.running: list[Drainer] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for drainer in self.running:
            self._parent.order({"do": "signal", "pid": drainer.pid, "signal": int(signal.SIGKILL)})

    def start(
        self, *, asks_for_lock: bool = True, families: Sequence[str] = ALL_FAMILIES, clock_offset_seconds: float = 0.0
    ) -> Drainer:
        order = {
            "do": "start",
            "settings": self._settings,
            "families": list(families),
            "asks_for_lock": asks_for_lock,
            "clock": clock_offset_seconds,
        }
        drainer = Drainer(self._parent.order(order)["pid"], time.monotonic(), asks_for_lock)
        self.running.append(drainer)
        return drainer

    def kill(self, drainer: Drainer) -> list[str]:
        """SIGKILL; returns the last batches that it opened. Raises DrainerEnded when it had ended before."""
        answer = self._parent.order({"do": "signal", "pid": drainer.pid, "signal": int(signal.SIGKILL)})
        self.running.remove(drainer)
        if not answer["was_killed"]:
            raise DrainerEnded(self._parent.log_tail())
        return list(answer["last_batches"])

    def kill_all(self) -> None:
        for drainer in list(self.running):
            self.kill(drainer)

    def signal_all(self, number: signal.Signals) -> None:
        """SIGSTOP or SIGCONT."""
        for drainer in self.running:
            self._parent.order({"do": "signal", "pid": drainer.pid, "signal": int(number)})

    def check(self) -> None:
        """Raises DrainerEnded when one of them is gone without having been killed."""
        for drainer in list(self.running):
            self._look(drainer)

    def wait_for_batches(self, drainer: Drainer, batches: int = 1) -> None:
        """Until the process has opened so many."""
        wait_until(lambda: self._look(drainer)["batches"] >= batches, "a drain process claims something")

    def wait_for_new_rounds(self) -> None:
        """Until each of them has begun a round after this call."""
        for drainer in self.running:
            before = self._look(drainer)["rounds"]
            wait_until(
                lambda drainer=drainer, before=before: self._look(drainer)["rounds"] > before + 1,
                "a drain process begins another round",
            )

    def _look(self, drainer: Drainer) -> dict[str, Any]:
        answer = self._parent.order({"do": "look", "pid": drainer.pid})
        if answer["ended"] is not None:
            self.running.remove(drainer)
            raise DrainerEnded(f"status {answer['ended']}\n{self._parent.log_tail()}")
        return answer
