"""`python -m usage_pipeline_tests.restore`: restores back-ups of different moments, and prints what became of all counts."""

import argparse
import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path

from usage_pipeline_tests.restore.drill import FAMILIES, SCENARIOS, Outcome, play
from usage_pipeline_tests.torture.servers import Stage

_HEAD = (
    "| back-ups | a drain | lost | doubled | the reconciliation: missing | counted twice | flagged batches of | alerts |",
    "|---|---|---|---|---|---|---|---|",
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m usage_pipeline_tests.restore", description=__doc__)
    parser.add_argument(
        "--ids", type=int, default=500, help="API keys, tokens and so on of a turn (default: %(default)s)"
    )
    ids = parser.parse_args().ids
    logging.basicConfig(level=logging.CRITICAL)
    print(*_HEAD, sep="\n", flush=True)
    with Stage() as stage, tempfile.TemporaryDirectory() as folder:
        for scenario in SCENARIOS:
            print(_line(play(stage, Path(folder), scenario, ids=ids)), flush=True)


def _line(outcome: Outcome) -> str:
    scenario = outcome.scenario
    amounts = [
        _of(amounts, outcome.written)
        for amounts in (outcome.lost, outcome.doubled, outcome.missing, outcome.counted_twice)
    ]
    cells = (
        scenario.name,
        "in the middle" if scenario.is_in_the_middle else "none",
        *amounts,
        ", ".join(sorted(outcome.uncertain)) or "–",
        ", ".join(sorted(outcome.alerts - {"empty-aggregation"})) or "–",
    )
    return f"| {' | '.join(cells)} |"


def _of(amounts: Mapping[str, int], written: Mapping[str, int]) -> str:
    """In per cent of what was written; families with the same share together."""
    shares: dict[str, list[str]] = {}
    for family in FAMILIES:
        if amounts[family]:
            shares.setdefault(f"{amounts[family] / written[family]:.0%}", []).append(family)
    if not shares:
        return "nothing"
    return "; ".join(f"{', '.join(families)} {share}" for share, families in shares.items())


if __name__ == "__main__":
    main()
