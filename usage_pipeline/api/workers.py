"""Keeps the worker processes of the HTTP service alive, and ends them.

uvicorn's own supervisor waits for each worker's answer in turn: while one hangs, or dies before it answers, no dead worker is
replaced and no signal is heard, for as long as a worker may take to start.
"""

import logging
import signal
import socket
import time
from collections.abc import Sequence

from uvicorn.config import STARTUP_FAILURE, Config
from uvicorn.supervisors.multiprocess import SIGNALS, Multiprocess, Process

# A worker that still imports on a busy machine is not dead.
HANG_SECONDS = 60.0
# What a worker may take to close its connections, after its requests had their time.
CLOSING_SECONDS = 10.0
_PING_SECONDS = 5.0
_HEARD = ("INT", "TERM", "HUP")
_log = logging.getLogger(__name__)


class Workers(Multiprocess):
    """Replaces a worker that died within a second, and one that hangs after HANG_SECONDS; never waits for one of them."""

    def __init__(self, config: Config, sockets: Sequence[socket.socket]) -> None:
        super().__init__(config, list(sockets))
        self.has_failed = False
        # When each worker was asked whether it lives, and whether that is unanswered.
        self._asked: dict[Process, tuple[float, bool]] = {}
        for number, name in SIGNALS.items():
            if name not in _HEARD:
                # To restart or to add workers, uvicorn waits for them, and hears nothing meanwhile.
                signal.signal(number, signal.SIG_DFL)

    def keep_subprocess_alive(self) -> None:
        for place, process in enumerate(self.processes):
            is_running = process.process.is_alive()
            if is_running and not self._hangs(process):
                continue
            self._asked.pop(process, None)
            process.kill()
            process.join()
            if process.exitcode == STARTUP_FAILURE:
                _log.error("worker %s could not start: the service ends", process.pid)
                self.has_failed = True
                self.should_exit.set()
                return
            what = f"ended ({process.exitcode})" if not is_running else f"did not answer for {HANG_SECONDS:g} s"
            _log.error("worker %s %s: another one is started", process.pid, what)
            self.processes[place] = Process(self.config, self.sockets)
            self.processes[place].start()

    def join_all(self) -> None:
        """Waits for the workers as long as their requests may take, and kills those that are left."""
        deadline = time.monotonic() + (self.config.timeout_graceful_shutdown or 0) + CLOSING_SECONDS
        for process in self.processes:
            process.process.join(max(0.0, deadline - time.monotonic()))
            if process.process.is_alive():
                _log.error("worker %s does not end: it is killed", process.pid)
                process.process.kill()
                process.join()

    def handle_hup(self) -> None:
        """A closed terminal ends the service."""
        self.handle_term()

    def _hangs(self, process: Process) -> bool:
        """Takes the answer of a worker, and asks again from time to time. Never waits."""
        now = time.monotonic()
        asked_at, is_waiting = self._asked.setdefault(process, (now - _PING_SECONDS, False))
        try:
            if is_waiting and process.parent_conn.poll(0):
                process.parent_conn.recv()
                is_waiting = False
            if not is_waiting and now - asked_at >= _PING_SECONDS:
                process.parent_conn.send(b"ping")
                asked_at, is_waiting = now, True
        except (OSError, EOFError):
            # It is about to die, or has died just now.
            pass
        self._asked[process] = asked_at, is_waiting
        return is_waiting and now - asked_at > HANG_SECONDS
