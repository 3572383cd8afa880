"""The demo: writers and drains overlap, and nothing is lost or doubled; on made-up traffic and on a real trace."""

import csv
import itertools
import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from usage_pipeline_tests.rigs.places import REAL_TRACE

REQUESTS = 1_500


def run_demo(folder: Path, *arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-c", "from usage_pipeline.cli import main; main()", "demo", "--json"]
    done = subprocess.run(
        [*command, "--folder", str(folder), *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def check(document: dict[str, Any]) -> None:
    assert document["success"]
    assert document["difference"] == 0
    assert document["dropped"] == 0
    assert document["are_days_materialized"]
    for family in document["families"]:
        assert family["written"] == family["stored"] + family["refused"]
        assert family["stored"] > 0
    assert {family["family"] for family in document["families"] if family["refused"] == 1} == {
        "api_key",
        "token",
        "event",
        "usage_event",
    }


def trace_rows() -> list[list[str]]:
    """The head of the real trace, or as many made-up rows of its shape where it is not beside this checkout."""
    if not REAL_TRACE.exists():
        made_up = ([f"2023-11-16 18:{n // 60:02d}:{n % 60:02d}.0000000", str(n), "20"] for n in range(REQUESTS))
        return [["TIMESTAMP", "ContextTokens", "GeneratedTokens"], *made_up]
    with REAL_TRACE.open(newline="") as file:
        return list(itertools.islice(csv.reader(file), REQUESTS + 1))


def test_writers_and_drains_overlap_with_no_difference_and_a_trace_is_replayed_on_top(
    folder: Path, tmp_path: Path
) -> None:
    first = run_demo(folder, "--seconds", "2", "--writers", "4")
    check(first)
    # Busy cores get through one in that time, and one is what it takes.
    assert first["drains_while_writing"] >= 1
    assert len(first["days"]) == 14

    part = tmp_path / "trace.csv"
    with part.open("w", newline="") as file:
        csv.writer(file).writerows(trace_rows())
    again = run_demo(folder, "--trace", str(part))
    check(again)
    assert again["requests"] == REQUESTS
    today = datetime.now(UTC).date()
    assert set(again["days"]) <= {today.isoformat(), (today - timedelta(days=1)).isoformat()}
