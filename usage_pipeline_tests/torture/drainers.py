"""Drain processes: started, signalled and looked at through the parent that forks them (drainer_process.py)."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from usage_pipeline.counters.drain_round import ALL_FAMILIES
from usage_pipeline_tests.torture.servers import wait_until


class DrainerEnded(Exception):
    """A drain process ended by itself; the message is what it wrote last."""


@dataclass(slots=True)
class Drainer:
    """A drain process; `started` is time.monotonic()."""

    pid: int
    started: float
    asks_for_lock: bool


class Drainers:
    """The drain processes of one fault, which all end with it."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self._log = folder / "drainers.log"
        self._settings = settings
        self.running: list[Drainer] = []

    def __enter__(self) -> Self:
        with self._log.open("ab") as log:
            self._parent = subprocess.Popen(
                [sys.executable, "-m", "usage_pipeline_tests.torture.drainer_process"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                # Ctrl-C is for the torture, which then ends its drainers in order.
                start_new_session=True,
                env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._parent.stdin is not None
        self._parent.stdin.close()
        try:
            self._parent.wait(20)
        except subprocess.TimeoutExpired:
            self._parent.kill()
            self._parent.wait()
        assert self._parent.stdout is not None
        self._parent.stdout.close()

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
        drainer = Drainer(self._order(order)["pid"], time.monotonic(), asks_for_lock)
        self.running.append(drainer)
        return drainer

    def kill(self, drainer: Drainer) -> list[str]:
        """SIGKILL; returns the last batches that it opened. Raises DrainerEnded when it had ended before."""
        answer = self._order({"do": "signal", "pid": drainer.pid, "signal": int(signal.SIGKILL)})
        self.running.remove(drainer)
        if not answer["was_killed"]:
            raise DrainerEnded(self._log_tail())
        return list(answer["last_batches"])

    def kill_all(self) -> None:
        for drainer in list(self.running):
            self.kill(drainer)

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
        answer = self._order({"do": "look", "pid": drainer.pid})
        if answer["ended"] is not None:
            self.running.remove(drainer)
            raise DrainerEnded(f"status {answer['ended']}\n{self._log_tail()}")
        return answer

    def _order(self, order: dict[str, Any]) -> dict[str, Any]:
        assert self._parent.stdin is not None
        assert self._parent.stdout is not None
        self._parent.stdin.write(json.dumps(order) + "\n")
        self._parent.stdin.flush()
        line = self._parent.stdout.readline()
        if not line:
            raise DrainerEnded(f"the parent of the drain processes ended\n{self._log_tail()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _log_tail(self, lines: int = 30) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-lines:])
