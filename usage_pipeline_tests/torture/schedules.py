"""Random schedules of the drain's single steps (counters/drain_machine.py), as one more fault in the table."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

from usage_pipeline_tests.torture.arena import Outcome
from usage_pipeline_tests.torture.servers import Stage

_PROGRAM = Path(__file__).parents[1] / "counters" / "drain_machine.py"


def run_schedules(_: Stage, times: int, seed: int) -> Outcome:
    """So many schedules, shared out to one process a core; each has servers of its own."""
    shares = os.cpu_count() or 1
    running = [
        subprocess.Popen(
            [sys.executable, str(_PROGRAM), "--schedules", str(times // shares + 1), "--seed", str(seed + number)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(shares)
    ]
    tally, problems = Counter[str](), list[str]()
    try:
        for process in running:
            printed, complaint = process.communicate()
            if process.returncode:
                problems.append(complaint[-2_000:])
            else:
                tally.update(json.loads(printed))
    finally:
        for process in running:
            process.terminate()
            process.wait()
    note = f"crashes {tally['crashes']:,}, fail-overs {tally['fail_overs']:,}, late keys {tally['late_keys']:,}"
    return Outcome(
        "random schedules of single steps",
        tally["schedules"],
        tally["written"],
        tally["stored"] + tally["dead_letters"],
        tally["lost"],
        tally["doubled"],
        note,
        tuple(problems),
    )
