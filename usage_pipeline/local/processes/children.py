"""Child processes of a launcher: each has its own session, and is stopped with everything that it started.

Every child has a mark in its environment, which its own children inherit. By this mark we find what a killed launcher left
running. A process id in a file is not enough: another process may have it by now, or a parent may be gone and its workers not.
"""

import os
import signal
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

MARK = "USAGE_PIPELINE_LAUNCHED_FOR"


@dataclass(frozen=True, slots=True)
class Child:
    """A process that we started. It leads its own process group, and writes its output to `log`."""

    name: str
    log: Path
    process: subprocess.Popen[bytes]

    @property
    def has_ended(self) -> bool:
        return self.process.poll() is not None

    def log_tail(self, lines: int = 25) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


def start_child(
    name: str, command: Sequence[str], *, mark: str, environment: Mapping[str, str], folder: Path, log: Path
) -> Child:
    """Start `command` in `folder` with exactly this environment and the mark. It replaces the log of the last start."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603
            command,
            cwd=folder,
            env={**environment, MARK: mark},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            # Ctrl-C in the terminal must reach the launcher alone, which then stops its children in order.
            start_new_session=True,
        )
    return Child(name, log, process)


def stop_children(children: Iterable[Child], *, timeout_seconds: float = 15) -> None:
    """Ask the process groups of these children to end, wait, and kill the rest after `timeout_seconds`."""
    groups = {child.process.pid: child.process for child in children}
    for group in groups:
        _signal_group(group, signal.SIGTERM)

    def members() -> list[psutil.Process]:
        for process in groups.values():
            process.poll()  # reaps it; a zombie would keep its group alive
        return _processes(lambda process: os.getpgid(process.pid) in groups)

    if not _all_gone(members, timeout_seconds):
        for group in groups:
            _signal_group(group, signal.SIGKILL)
        _all_gone(members, timeout_seconds)


def stop_left_overs(mark: str, *, timeout_seconds: float = 10) -> int:
    """End every process with `mark`, except this one and its ancestors. Returns how many there were.

    Only the process that holds the lock of the marked folder may call this: then no other process has children with the mark.
    """
    spared = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}

    def marked() -> list[psutil.Process]:
        return _processes(lambda process: process.pid not in spared and process.environ().get(MARK) == mark)

    found = marked()
    for process in found:
        with suppress(psutil.Error):
            process.terminate()
    if found and not _all_gone(marked, timeout_seconds):
        for process in marked():
            with suppress(psutil.Error):
                process.kill()
        _all_gone(marked, timeout_seconds)
    return len(found)


def _signal_group(group: int, number: signal.Signals) -> None:
    # A group's number is not given to another process while a member lives; without one there is nothing to end.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _processes(wanted: Callable[[psutil.Process], bool]) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if wanted(process) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def _all_gone(remaining: Callable[[], list[psutil.Process]], timeout_seconds: float) -> bool:
    """Whether all processes end within the time. It looks again after each wait: a process may start others meanwhile."""
    for _ in range(int(timeout_seconds * 10)):
        alive = remaining()
        if not alive:
            return True
        psutil.wait_procs(alive, timeout=0.1)
    return not remaining()
