"""Rows without an id: equal ones of a file all count, and none of a file that is loaded again, also after a kill."""

import json
import os
import signal
import subprocess
import sys
from datetime import timedelta, timezone
from pathlib import Path
from typing import Any
from uuid import UUID

import pandas as pd
import psycopg
import pytest

from usage_pipeline.events.files import making
from usage_pipeline.events.files.loading import Source, load_file
from usage_pipeline.events.files.names import FileKind
from usage_pipeline.settings import Settings
from usage_pipeline_tests.events.files.test_kinds import load
from usage_pipeline_tests.events.files.writing import WRITERS, as_csv, as_lines, as_parquet
from usage_pipeline_tests.rigs.commands import command_environment
from usage_pipeline_tests.rigs.events import NOW, event
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


AT = NOW.replace(hour=0) - timedelta(days=1)
ROW = event(event_id=..., event_time=f"{AT:%Y-%m-%dT%H:%M:%SZ}", user_id="Zo\u00eb", input_tokens=10, cost_usd="0.10")
COMPACT = json.dumps(ROW, separators=(",", ":"), ensure_ascii=False)
SPELLINGS = {
    "compact.jsonl": COMPACT,
    "escaped.jsonl": json.dumps(ROW).replace("openai", "open\\u0061i"),
    "float.jsonl": COMPACT.replace(":10,", ":10.0,"),
    "exponent.jsonl": COMPACT.replace(":10,", ":1e1,"),
    "null.jsonl": f'{COMPACT[:-1]},"prompt":null,"error_type":"","tags":{{}},"total_tokens":30}}',
    "offset.jsonl": COMPACT.replace('Z"', '+00:00"'),
    "zone.jsonl": COMPACT.replace(ROW["event_time"], AT.astimezone(timezone(timedelta(hours=2))).isoformat()),
    "thousandths.jsonl": COMPACT.replace('Z"', '.000Z"'),
    "space.jsonl": COMPACT.replace(ROW["event_time"], ROW["event_time"].replace("T", " ")),
    "cost.jsonl": COMPACT.replace('"0.10"', "0.1"),
    "document.json": json.dumps([ROW], indent=2),
    "absent.jsonl": json.dumps({"event_id": None, **ROW}),
    "empty.jsonl": json.dumps({**ROW, "event_id": ""}),
    "first.json": json.dumps({"event_id": "", **ROW}, indent=2),
    "null.json": json.dumps([{**ROW, "event_id": None}]),
    "plain.csv": as_csv([ROW]).decode(),
    "float.csv": as_csv([{**ROW, "input_tokens": "10.0", "latency_ms": "350.0"}]).decode(),
    "order.csv": as_csv([dict(reversed(ROW.items()))]).decode(),
    "column.csv": as_csv([{**ROW, "error_type": "", "event_id": "", "tags.project": ""}]).decode(),
}


def test_each_spelling_of_a_row_is_the_same_row(
    tmp_path: Path, postgres: psycopg.Connection, settings: Settings
) -> None:
    (tmp_path / "a.parquet").write_bytes(as_parquet([{**ROW, "input_tokens": 10.0, "event_time": pd.Timestamp(AT)}]))
    assert load(postgres, settings, tmp_path / "a.parquet").inserted == 1
    for name, content in SPELLINGS.items():
        (tmp_path / name).write_text(content)
        done = load(postgres, settings, tmp_path / name)
        assert (done.rejections, done.reason) == ([], None), name
        assert (done.inserted, done.duplicates, done.conflicts) == (0, 1, 0), name


@pytest.mark.parametrize(
    "change",
    [{"event_time": (AT + timedelta(microseconds=1)).isoformat()}, {"source": "a"}, {"extra": {"event_id": "x"}}],
)
def test_what_is_stored_otherwise_is_another_row(
    change: dict[str, Any], tmp_path: Path, postgres: psycopg.Connection, settings: Settings
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(as_lines([ROW, {**ROW, **change}]))
    done = load(postgres, settings, path)
    assert (done.rejections, done.inserted, done.conflicts) == ([], 2, 0)
    assert load(postgres, settings, path).duplicates == 2


def test_a_row_that_was_too_old_keeps_its_id(tmp_path: Path, postgres: psycopg.Connection, settings: Settings) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(as_lines([ROW]))
    early = settings.model_copy(update={"usage_start_date": NOW.date()})
    with path.open("rb") as stream:
        source = Source("file:a.jsonl", FileKind("lines"), letters_of=b"a.jsonl")
        assert load_file(postgres, stream, source, settings=early).rejected == 1
    [[raw]] = postgres.execute("select raw from ops.dead_letters").fetchall()
    assert load(postgres, settings, path).inserted == 1
    assert UUID(json.loads(raw)["event_id"]) in ids(postgres)


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
