"""Rows without an id: equal ones of a file all count, and none of a file that is loaded again, also after a kill."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from uuid import UUID

import psycopg
import pytest

from usage_pipeline.events.files import making
from usage_pipeline.settings import Settings
from usage_pipeline_tests.events.files.test_kinds import load
from usage_pipeline_tests.events.files.writing import WRITERS
from usage_pipeline_tests.rigs.commands import command_environment
from usage_pipeline_tests.rigs.events import event
from usage_pipeline_tests.rigs.waiting import wait_until


def ids(postgres: psycopg.Connection) -> set[UUID]:
    return {one for (one,) in postgres.execute("select event_id from analytics.usage_events")}


@pytest.mark.parametrize("ending", WRITERS)
def test_equal_rows_of_a_file_all_count_and_once(
    ending: str, tmp_path: Path, postgres: psycopg.Connection, settings: Settings
) -> None:
    one, other = event(event_id=...), event(event_id=..., input_tokens=7)
    path = tmp_path / f"a{ending}"
    path.write_bytes(WRITERS[ending]([one, other, one, one]))
    assert (load(postgres, settings, path).inserted, len(ids(postgres))) == (4, 4)
    again = load(postgres, settings, path)
    assert (again.inserted, again.duplicates, again.conflicts) == (0, 4, 0)
    # A file with more of the same at its end: only these are new.
    path.write_bytes(WRITERS[ending]([one, other, one, one, other, event(event_id=..., input_tokens=8)]))
    more = load(postgres, settings, path)
    assert (more.inserted, more.duplicates, more.conflicts) == (2, 4, 0)


def test_rows_with_an_id_keep_it(tmp_path: Path, postgres: psycopg.Connection, settings: Settings) -> None:
    path = tmp_path / "a.csv"
    known = event()
    path.write_bytes(WRITERS[".csv"]([known, {**event(), "event_id": ""}]))
    assert load(postgres, settings, path).inserted == 2
    assert UUID(known["event_id"]) in ids(postgres)


def test_rows_without_an_id_are_bounded(
    tmp_path: Path, postgres: psycopg.Connection, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(making, "MOST_WITHOUT_ID", 2)
    path = tmp_path / "a.csv"
    path.write_bytes(WRITERS[".csv"]([event(event_id=..., input_tokens=number) for number in (1, 1, 2, 3)]))
    done = load(postgres, settings, path)
    assert done.inserted == 3
    assert "expected at most 2 rows without an id" in str(done.reason)


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_a_load_that_is_killed_is_finished_by_the_next_one(
    ending: str, tmp_path: Path, postgres: psycopg.Connection, settings: Settings
) -> None:
    rows = 60_000
    path = tmp_path / f"a{ending}"
    path.write_bytes(WRITERS[ending]([event(event_id=..., input_tokens=number // 2) for number in range(rows)]))
    command = [sys.executable, "-c", "from usage_pipeline.cli import main; main()", "load", "events", str(path)]
    killed = subprocess.Popen(command, env=command_environment(settings), start_new_session=True)
    count = "select count(*) from analytics.usage_events"
    try:
        wait_until(lambda: postgres.execute(count).fetchall()[0][0] > 0, "some rows are stored", 60)
    finally:
        os.killpg(killed.pid, signal.SIGKILL)
        killed.wait()
    [[before]] = postgres.execute(count).fetchall()
    assert 0 < before < rows
    done = load(postgres, settings, path)
    assert (done.reason, done.inserted + done.duplicates, done.conflicts) == (None, rows, 0)
    assert done.duplicates >= before
    [[total, tokens]] = postgres.execute(
        "select count(*), sum(input_tokens)::bigint from analytics.usage_events"
    ).fetchall()
    assert (total, tokens) == (rows, sum(number // 2 for number in range(rows)))
