"""`python -m usage_pipeline_tests.torture`: every fault under live load, and a table of what was written and stored.

Exit status 1 when anything was lost, doubled, left behind, or changed without a flag.
"""

import argparse
import json
import logging
import random
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict

from rich.console import Console
from rich.table import Table

from usage_pipeline_tests.torture.arena import Outcome
from usage_pipeline_tests.torture.faults.catalogue import FAULTS
from usage_pipeline_tests.torture.schedules import Schedules
from usage_pipeline_tests.torture.servers import Stage

_SCHEDULES = "schedules"
_COLUMNS = ("fault", "times", "written", "stored", "lost", "doubled", "what it met")


def main() -> None:
    options = _options()
    logging.basicConfig(level=logging.ERROR)
    # As Ctrl-C does: everything that was started ends with the blocks that started it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    console, started = Console(stderr=True), time.monotonic()
    console.print(f"seed {options.seed}; repeat this run with --seed {options.seed} --kills {options.kills}")
    names = options.only or [*FAULTS, _SCHEDULES]
    with ExitStack() as stack:
        schedules = None
        if _SCHEDULES in names:
            schedules = stack.enter_context(Schedules(options.schedules, options.seed))
        outcomes = list(_torture([name for name in names if name in FAULTS], options.kills, options.seed, console))
        if schedules is not None:
            console.print(f"waiting for the {options.schedules} schedules that run beside")
            outcomes.append(schedules.outcome())
    seconds = time.monotonic() - started
    if options.json:
        document = {"seed": options.seed, "seconds": seconds, "faults": [asdict(outcome) for outcome in outcomes]}
        print(json.dumps(document, indent=2))
    elif options.markdown:
        print(_as_markdown(outcomes))
    else:
        _print_table(outcomes, seconds)
    for outcome in outcomes:
        for problem in outcome.problems:
            console.print(f"{outcome.fault}: {problem}", style="red", markup=False)
    sys.exit(0 if all(outcome.has_passed for outcome in outcomes) else 1)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m usage_pipeline_tests.torture", description=__doc__)
    parser.add_argument(
        "--kills", type=int, default=1_000, help="SIGKILLs of drain processes; other faults in proportion"
    )
    parser.add_argument("--schedules", type=int, default=10_000, help="random schedules of single steps")
    every = [*FAULTS, _SCHEDULES]
    parser.add_argument("--only", nargs="+", choices=every, metavar="FAULT", help=", ".join(every))
    parser.add_argument("--seed", type=int, default=random.randrange(2**31), help="of the moments; default: a new one")
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument("--json", action="store_true", help="print one JSON document")
    shape.add_argument("--markdown", action="store_true", help="print the table in Markdown")
    return parser.parse_args()


def _torture(names: Sequence[str], kills: int, seed: int, console: Console) -> Iterator[Outcome]:
    with Stage() as stage:
        for name in names:
            fault, started = FAULTS[name], time.monotonic()
            times = fault.times(kills)
            console.print(f"{name}: {times} times ...", end=" ", markup=False)
            try:
                outcome = fault.run(stage, times, seed)
            except Exception as error:
                # The other faults go on: one night's run should tell all that there is to tell.
                outcome = Outcome(name, 0, 0, 0, 0, 0, "", (f"{type(error).__name__}: {error}",))
            console.print(f"{'passed' if outcome.has_passed else 'FAILED'}, {time.monotonic() - started:.0f} s")
            yield outcome


def _cells(outcome: Outcome) -> tuple[str, ...]:
    numbers = (outcome.times, outcome.written, outcome.stored, outcome.lost, outcome.doubled)
    return outcome.fault, *(f"{number:,}" for number in numbers), outcome.note


def _print_table(outcomes: Sequence[Outcome], seconds: float) -> None:
    caption = f"Sums over all counts of all families; {seconds:.0f} s"
    table = Table(title="Torture of the drain", caption=caption)
    for name in _COLUMNS:
        table.add_column(name, justify="left" if name in (_COLUMNS[0], _COLUMNS[-1]) else "right")
    for outcome in outcomes:
        table.add_row(*_cells(outcome), style=None if outcome.has_passed else "red")
    Console().print(table)


def _as_markdown(outcomes: Sequence[Outcome]) -> str:
    rules = ("---" if name in (_COLUMNS[0], _COLUMNS[-1]) else "---:" for name in _COLUMNS)
    rows = (_COLUMNS, tuple(rules), *(_cells(outcome) for outcome in outcomes))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    main()
