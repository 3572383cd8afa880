"""Several workers: one that dies is replaced and a stop is heard, whatever the others do at the time."""

import os
import signal
from contextlib import suppress
from pathlib import Path

import psutil

from usage_pipeline.settings import Settings
from usage_pipeline_tests.api.api_process import ApiProcess, api_process
from usage_pipeline_tests.rigs.waiting import wait_until

# Of the supervisor, which takes a second. uvicorn's own took a minute.
SOON_SECONDS = 30


def children(running: ApiProcess) -> set[int]:
    """The worker processes, whether they serve already or not. (Another child of `spawn` tracks resources.)"""
    found = set()
    for child in psutil.Process(running.process.pid).children():
        with suppress(psutil.Error):
            if "spawn_main" in " ".join(child.cmdline()):
                found.add(child.pid)
    return found


def test_a_dead_worker_is_replaced_and_sigterm_is_heard_while_another_one_hangs(
    settings: Settings, tmp_path: Path
) -> None:
    with api_process(settings, tmp_path, workers=2) as running:
        hanging, other = running.workers()
        os.kill(hanging, signal.SIGSTOP)
        # By the second time, the supervisor has surely asked the one that hangs.
        for _ in range(2):
            before = children(running)
            [other] = before - {hanging}
            os.kill(other, signal.SIGKILL)
            wait_until(
                lambda before=before: len(children(running) - before) == 1,
                "the dead worker is replaced",
                SOON_SECONDS,
                log=running.log.read_text,
            )
        [other] = children(running) - {hanging}
        wait_until(lambda: other in running.workers(), "the new worker serves", 120, log=running.log.read_text)
        os.kill(other, signal.SIGKILL)
        running.process.send_signal(signal.SIGTERM)
        wait_until(
            lambda: "Received SIGTERM" in running.log.read_text(),
            "SIGTERM is heard",
            SOON_SECONDS,
            log=running.log.read_text,
        )
        os.kill(hanging, signal.SIGCONT)
        assert running.process.wait(60) == 0, running.log.read_text()
        assert not psutil.pid_exists(hanging)


def test_a_worker_that_does_not_end_is_killed_when_its_time_is_over(settings: Settings, tmp_path: Path) -> None:
    prelude = (
        "import usage_pipeline.api.server as server, usage_pipeline.api.workers as workers\n"
        "server.STOP_SECONDS = workers.CLOSING_SECONDS = 1"
    )
    with api_process(settings, tmp_path, workers=2, prelude=prelude) as running:
        hanging, _ = running.workers()
        os.kill(hanging, signal.SIGSTOP)
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(120) == 0, running.log.read_text()
        assert f"worker {hanging} does not end: it is killed" in running.log.read_text()


def test_a_worker_that_hangs_is_replaced(settings: Settings, tmp_path: Path) -> None:
    prelude = "import usage_pipeline.api.workers as workers\nworkers.HANG_SECONDS = 30"
    with api_process(settings, tmp_path, workers=2, prelude=prelude) as running:
        hanging, _ = running.workers()
        os.kill(hanging, signal.SIGSTOP)
        wait_until(
            lambda: f"worker {hanging} did not answer for 30 s" in running.log.read_text(),
            "the hanging worker is replaced",
            120,
            log=running.log.read_text,
        )
        wait_until(lambda: len(running.workers()) == 2, "there are two again", 120, log=running.log.read_text)
        assert hanging not in running.workers()
