"""Random schedules of the drain's single steps (drain/state_machine/machine.py), beside the faults: on servers of their own."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from types import TracebackType
from typing import Self

from usage_pipeline_tests.rigs.places import PROJECT
from usage_pipeline_tests.torture.arena import Outcome

# What a process prints at its end goes to a pipe: its tally, or a failed schedule with all its steps.
_COMPLAINT_CHARACTERS = 4_000


class Schedules:
    """So many schedules, shared out to a process for each core, which end with the block."""

    def __init__(self, schedules: int, seed: int) -> None:
        processes = min(schedules, os.cpu_count() or 1)
        share = -(-schedules // processes)
        self._running = [
            subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "usage_pipeline_tests.drain.state_machine.machine",
                    "--schedules",
                    str(share),
                    "--seed",
                    str(seed + number),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                cwd=PROJECT,
            )
            for number in range(processes)
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._running:
            if process.poll() is None:
                # As Ctrl-C does, so that it stops its servers.
                process.send_signal(signal.SIGINT)
        for process in self._running:
            process.wait()
            for pipe in (process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()

    def outcome(self) -> Outcome:
        """Waits for the end of all."""
        tally, problems = Counter[str](), list[str]()
        for process in self._running:
            printed, complaint = process.communicate()
            if process.returncode:
                problems.append(complaint[-_COMPLAINT_CHARACTERS:])
            else:
                tally.update(json.loads(printed))
        return Outcome(
            "random schedules of single steps",
            tally["schedules"],
            tally["written"],
            tally["stored"] + tally["dead_letters"],
            tally["lost"],
            tally["doubled"],
            ", ".join(
                f"{what.replace('_', ' ')} {tally[what]:,}"
                for what in ("crashes", "fail_overs", "late_keys", "days_archived", "days_dropped", "days_returned")
            ),
            tuple(problems),
        )
