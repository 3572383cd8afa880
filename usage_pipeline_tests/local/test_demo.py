"""The demo: writers and drains overlap, and nothing is lost or doubled; on made-up traffic and on a real trace."""

import csv
import itertools
import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

TRACE = Path(__file__).parents[3] / "shared" / "data" / "azure_llm_trace_code_2023.csv"


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


def test_writers_and_drains_overlap_with_no_difference_again_and_again(folder: Path) -> None:
    first = run_demo(folder, "--seconds", "2")
    check(first)
    assert first["drains_while_writing"] >= 2
    assert len(first["days"]) == 14
    check(run_demo(folder, "--seconds", "1", "--writers", "4"))


@pytest.mark.skipif(not TRACE.exists(), reason="the real trace is not beside this checkout (../shared/data)")
def test_a_real_trace_is_replayed_with_no_difference(folder: Path, tmp_path: Path) -> None:
    with TRACE.open(newline="") as file:
        rows = list(itertools.islice(csv.reader(file), 1501))
    part = tmp_path / "trace.csv"
    with part.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    document = run_demo(folder, "--trace", str(part))
    check(document)
    assert document["requests"] == 1500
    today = datetime.now(UTC).date()
    assert set(document["days"]) <= {today.isoformat(), (today - timedelta(days=1)).isoformat()}
