"""Landed files: each read once, put away where it belongs, and never half."""

import gzip
import json
import os
import re
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import fsspec
import psycopg
import pytest

from usage_pipeline.events.files import loading as module
from usage_pipeline.events.ingest.model import MAX_EVENT_BYTES
from usage_pipeline.events.landing.faults import faults_of
from usage_pipeline.events.landing.folder import Landing
from usage_pipeline.events.landing.reading import (
    FileReport,
    NoLandingError,
    ingest_file,
    ingest_landed,
    settled,
)
from usage_pipeline.settings import Settings
from usage_pipeline_tests.events.files.writing import as_csv
from usage_pipeline_tests.rigs.events import NOW, archive, event


@pytest.fixture
def landing(tmp_path: Path) -> Landing:
    return Landing(str(tmp_path))


@pytest.fixture
def read(postgres: psycopg.Connection, landing: Landing, settings: Settings) -> Callable[[str], FileReport]:
    return lambda address: ingest_file(postgres, landing, address, settings=settings)


def lines(*members: Any) -> bytes:
    return b"".join(json.dumps(member).encode() + b"\n" for member in members)


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def changed(path: Path, seconds_ago: float) -> None:
    at = time.time() - seconds_ago
    os.utime(path, (at, at))


def count_of(postgres: psycopg.Connection, table: str) -> int:
    [(rows,)] = postgres.execute(f"select count(*) from {table}").fetchall()
    return rows


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", lines(event(), event()) + b"\n\n"),
        ("a.json", json.dumps([event(), event()]).encode()),
        ("a.json", json.dumps({"events": [event(), event()]}).encode()),
        ("a.json.gz", gzip.compress(json.dumps([event(), event()]).encode())),
        ("a.jsonl.gz", gzip.compress(lines(event())) + gzip.compress(lines(event()))),
        ("ünï code.jsonl", lines(event(), event())[:-1]),
    ],
)
def test_each_format_is_read_and_put_away(
    name: str, content: bytes, tmp_path: Path, read: Callable[[str], FileReport], postgres: psycopg.Connection
) -> None:
    (tmp_path / name).write_bytes(content)
    changed(tmp_path / name, 601)
    assert read(name) == FileReport(name, "stored", None, 2, 2, 0, 0, 0)
    assert names(tmp_path) == [f"done/{name}"]
    assert (tmp_path / "done" / name).read_bytes() == content
    columns = "address, bytes, kind, outcome, reason, received, inserted"
    ledger = postgres.execute(f"select {columns} from ops.landed_files").fetchall()
    assert ledger == [(name, len(content), "events", "stored", None, 2, 2)]
    assert postgres.execute("select source from ops.ingest_batches").fetchall() == [(f"file:{name}",)]


def test_files_below_archives_hold_archives(
    tmp_path: Path, landing: Landing, read: Callable[[str], FileReport], postgres: psycopg.Connection
) -> None:
    known = event()
    (tmp_path / "events.jsonl").write_bytes(lines(known))
    (tmp_path / "archives").mkdir()
    (tmp_path / "archives" / "a.jsonl").write_bytes(lines(archive(known["event_id"])))
    assert [file.address for file in landing.waiting()] == ["events.jsonl", "archives/a.jsonl"]
    for file in landing.waiting():
        assert read(file.address).inserted == 1
    assert count_of(postgres, "analytics.message_archives") == 1
    assert names(tmp_path) == ["done/archives/a.jsonl", "done/events.jsonl"]


def test_what_is_not_finished_or_no_event_file_is_left_alone(
    tmp_path: Path, landing: Landing, read: Callable[[str], FileReport]
) -> None:
    for name in (
        ".a.jsonl",
        "_a.jsonl",
        "a.jsonl.tmp",
        "a.txt",
        "a.gz",
        "done/a.jsonl",
        "done/2026/a.jsonl",
        "broken/a.jsonl",
        "_unfinished/a.jsonl",
        "2026/.unfinished/a.jsonl",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_bytes(lines(event()))
    assert landing.waiting() == []
    for address in ("../a.jsonl", "done/a.jsonl", "archives/../a.jsonl", "/etc/a.jsonl", "a.txt", "2026//a.jsonl"):
        with pytest.raises(ValueError, match="expected the name of a file in the landing folder"):
            read(address)


def test_rejected_items_become_dead_letters_with_their_place_in_the_file(
    tmp_path: Path, read: Callable[[str], FileReport], postgres: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ITEMS_PER_BATCH", 2)
    bad = event(team="")
    (tmp_path / "a.jsonl").write_bytes(lines(event(), event(), event()) + lines(bad) + b"nonsense\n" + lines(event()))
    report = read("a.jsonl")
    assert (report.outcome, report.received, report.inserted, report.rejected) == ("stored", 6, 4, 2)
    columns = "family, source_key, position, split_part(reason, ':', 1), raw, batch_id"
    assert postgres.execute(f"select {columns} from ops.dead_letters order by position").fetchall() == [
        ("usage_event", b"a.jsonl", 4, "team", json.dumps(bad).encode(), None),
        (
            "usage_event",
            b"a.jsonl",
            5,
            "expected a usage event as a JSON object, came one with a fault",
            b"nonsense",
            None,
        ),
    ]


@pytest.mark.parametrize(
    ("name", "content", "stored", "reason"),
    [
        ("a.json", b'[{"event_id"', 0, "body: expected a JSON array"),
        ("a.json", b"", 0, "body: expected a JSON array"),
        ("a.json.gz", b"no gzip", 0, "expected a whole gzip file"),
        ("a.jsonl.gz", gzip.compress(lines(*(event() for _ in range(100))))[:-9], 100, "expected a whole gzip file"),
        (
            "a.jsonl",
            lines(event()) + b"x" * 25_000 + b"\n",
            1,
            r"line 2: expected at most 20480 bytes \(MAX_GZIP_SIZE x 20\), came more",
        ),
        ("a.json", b"[" + b" " * 25_000 + b"]", 0, "expected a JSON document of at most 20480 bytes"),
        ("a.json.gz", gzip.compress(b" " * 25_000, mtime=0), 0, "expected a JSON document of at most 20480 bytes"),
    ],
)
def test_a_broken_file_ends_beside_its_reason_and_not_in_a_loop(
    name: str,
    content: bytes,
    stored: int,
    reason: str,
    tmp_path: Path,
    landing: Landing,
    postgres: psycopg.Connection,
    settings: Settings,
) -> None:
    (tmp_path / name).write_bytes(content)
    small = settings.model_copy(update={"max_gzip_size": 1024})
    report = ingest_file(postgres, landing, name, settings=small)
    assert (report.outcome, report.inserted) == ("broken", stored)
    assert names(tmp_path) == [f"broken/{name}", f"broken/{name}.reason.txt"]
    assert re.match(reason, (tmp_path / "broken" / f"{name}.reason.txt").read_text())
    assert landing.waiting() == []
    assert count_of(postgres, "analytics.usage_events") == stored


def test_a_file_is_read_once_however_often_it_is_asked_for(
    tmp_path: Path, read: Callable[[str], FileReport], postgres: psycopg.Connection
) -> None:
    content = lines(event(), event())
    (tmp_path / "a.jsonl").write_bytes(content)
    assert read("a.jsonl").inserted == 2
    assert read("a.jsonl").outcome == "gone"
    # As it is when the process dies between the ledger and the move.
    os.rename(tmp_path / "done" / "a.jsonl", tmp_path / "a.jsonl")
    assert read("a.jsonl") == FileReport("a.jsonl", "stored", None, 2, 2, 0, 0, 0)
    assert names(tmp_path) == ["done/a.jsonl"]
    assert count_of(postgres, "ops.ingest_batches") == 1


def test_a_crash_before_the_ledger_counts_nothing_twice(
    tmp_path: Path,
    read: Callable[[str], FileReport],
    postgres: psycopg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "ITEMS_PER_BATCH", 2)
    (tmp_path / "a.jsonl").write_bytes(lines(event(), event(team=""), event(), event(team="", user_id="u"), event()))
    whole = module.ingest
    calls = []

    def dies_at_the_third(*arguments: Any, **named: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 3:
            raise psycopg.OperationalError("the server went away")
        return whole(*arguments, **named)

    monkeypatch.setattr(module, "ingest", dies_at_the_third)
    with pytest.raises(psycopg.OperationalError):
        read("a.jsonl")
    assert names(tmp_path) == ["a.jsonl"]
    assert read("a.jsonl") == FileReport("a.jsonl", "stored", None, 5, 1, 2, 0, 2)
    assert count_of(postgres, "analytics.usage_events") == 3
    assert count_of(postgres, "ops.dead_letters") == 2


def test_the_same_name_with_other_content_is_another_file(
    tmp_path: Path, read: Callable[[str], FileReport], postgres: psycopg.Connection
) -> None:
    for _ in range(3):
        (tmp_path / "a.jsonl").write_bytes(lines(event()))
        assert read("a.jsonl").inserted == 1
    assert len(names(tmp_path)) == 3
    assert count_of(postgres, "ops.landed_files") == 3


def test_a_file_that_grows_while_it_is_read_is_read_again(
    tmp_path: Path, read: Callable[[str], FileReport], postgres: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines(event()))
    whole = module.ingest

    def while_it_grows(*arguments: Any, **named: Any) -> Any:
        with path.open("ab") as file:
            file.write(lines(event()))
        return whole(*arguments, **named)

    monkeypatch.setattr(module, "ingest", while_it_grows)
    assert read("a.jsonl").outcome == "changed"
    monkeypatch.setattr(module, "ingest", whole)
    assert names(tmp_path) == ["a.jsonl"]
    assert read("a.jsonl").received == 2
    assert count_of(postgres, "analytics.usage_events") == 2


def test_a_file_that_is_written_to_while_it_is_moved_comes_back(
    tmp_path: Path,
    landing: Landing,
    read: Callable[[str], FileReport],
    postgres: psycopg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines(event()))
    move = landing.files.mv
    with path.open("ab") as writer:

        def moved_under_its_writer(*arguments: Any, **named: Any) -> None:
            monkeypatch.setattr(landing.files, "mv", move)
            writer.write(lines(event()))
            writer.flush()
            move(*arguments, **named)

        monkeypatch.setattr(landing.files, "mv", moved_under_its_writer)
        assert read("a.jsonl").received == 1
    assert names(tmp_path) == ["a.jsonl"]
    assert read("a.jsonl").inserted == 1
    assert count_of(postgres, "analytics.usage_events") == 2


def test_two_processes_at_once_do_not_read_the_same_file(
    tmp_path: Path, landing: Landing, settings: Settings, database_url: str, postgres: psycopg.Connection
) -> None:
    for number in range(20):
        (tmp_path / f"{number}.jsonl").write_bytes(lines(*(event() for _ in range(20))))
    reports: list[FileReport] = []

    def work() -> None:
        with psycopg.connect(database_url, autocommit=True) as connection:
            addresses = [file.address for file in landing.waiting()]
            reports.extend(ingest_file(connection, landing, address, settings=settings) for address in addresses)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sum(report.inserted for report in reports if report.outcome == "stored") == 400
    assert sum(report.duplicates for report in reports) == 0
    assert len(names(tmp_path / "done")) == 20


def test_only_settled_files_are_read_unasked(tmp_path: Path, settings: Settings, landing: Landing) -> None:
    (tmp_path / "new.jsonl").write_bytes(lines(event()))
    (tmp_path / "old.jsonl").write_bytes(lines(event()))
    a_minute_ago = time.time() - 60
    os.utime(tmp_path / "old.jsonl", (a_minute_ago, a_minute_ago))
    assert [file.address for file in settled(landing.waiting(), 10, time.time())] == ["old.jsonl"]
    there = settings.model_copy(update={"landing_url": str(tmp_path)})
    assert [report.address for report in ingest_landed(there, budget_seconds=60)] == ["old.jsonl"]
    assert [report.outcome for report in ingest_landed(there, ["new.jsonl", "old.jsonl"], budget_seconds=60)] == [
        "stored",
        "gone",
    ]
    assert ingest_landed(there, ["x.jsonl"], budget_seconds=-1) == []


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.ndjson"])
def test_a_line_that_may_be_cut_waits_for_its_end(
    name: str, end: str, tmp_path: Path, read: Callable[[str], FileReport], postgres: psycopg.Connection
) -> None:
    """Its beginning would count beside the whole line: of 1002 tokens, 10 more."""
    path = tmp_path / name
    rows = [event(event_id=..., input_tokens=number, latency_ms=...) for number in (1001, 1002)]
    whole = as_csv([{**row, "status_code": 200} for row in rows]) if name == "a.csv" else lines(*rows)
    cut = whole.rstrip()[:-1]
    path.write_bytes(cut)
    changed(path, 60)
    report = read(name)
    assert report.outcome == "unfinished"
    assert "expected a line break behind the last line" in str(report.reason)
    assert count_of(postgres, "analytics.usage_events") + count_of(postgres, "ops.dead_letters") == 0
    path.write_bytes(whole.rstrip() + end.encode())
    changed(path, 60)
    assert (read(name).outcome, count_of(postgres, "analytics.usage_events")) == ("stored", 2)


@pytest.mark.parametrize("seconds_ago", [601, -86_400])
def test_a_file_without_a_last_line_break_is_read_when_it_rests_for_long(
    seconds_ago: float, tmp_path: Path, read: Callable[[str], FileReport]
) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines(event(), event()).rstrip())
    changed(tmp_path / "a.jsonl", seconds_ago)
    assert read("a.jsonl").inserted == 2


@pytest.mark.parametrize("name", ["a.json", "a.jsonl.gz", "b.jsonl"])
def test_what_has_another_end_does_not_wait(name: str, tmp_path: Path, read: Callable[[str], FileReport]) -> None:
    content = {
        "a.json": json.dumps([event()]).encode(),
        "a.jsonl.gz": gzip.compress(lines(event()).rstrip()),
        "b.jsonl": b"",
    }
    (tmp_path / name).write_bytes(content[name])
    assert read(name).outcome == "stored"


def test_a_file_that_the_file_system_refuses_costs_no_other(tmp_path: Path, settings: Settings) -> None:
    (tmp_path / "a.jsonl").mkdir()
    (tmp_path / "b.jsonl").write_bytes(lines(event()))
    there = settings.model_copy(update={"landing_url": str(tmp_path)})
    first, second = ingest_landed(there, ["a.jsonl", "b.jsonl"], budget_seconds=60)
    assert (first.outcome, second.outcome) == ("failed", "stored")
    assert first.reason is not None
    assert first.reason.startswith("NotAFileError")


def test_any_fsspec_address_will_do(postgres: psycopg.Connection, settings: Settings) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/landing/a.jsonl", lines(event(), event(team="")))
    memory.pipe_file("/landing/b.json", b"nonsense")
    landing = Landing("memory://landing")
    for file in landing.waiting():
        ingest_file(postgres, landing, file.address, settings=settings)
    assert sorted(memory.find("/landing")) == [
        "/landing/broken/b.json",
        "/landing/broken/b.json.reason.txt",
        "/landing/done/a.jsonl",
    ]
    memory.rm("/landing", recursive=True)
    assert landing.waiting() == []


def test_without_a_landing_folder_it_is_said_what_is_missing(settings: Settings) -> None:
    with pytest.raises(NoLandingError, match="LANDING_URL: expected"):
        ingest_landed(settings, budget_seconds=1)


def test_an_event_from_before_the_first_day_of_usage_is_a_dead_letter_with_its_reason(
    tmp_path: Path, postgres: psycopg.Connection, settings: Settings
) -> None:
    """It would be stored, but never be rolled up, and so never leave."""
    starting = settings.model_copy(update={"usage_start_date": NOW.date()})
    at = NOW.replace(hour=0, minute=0, second=0)
    early, first = event(event_time=(at - timedelta(seconds=1)).isoformat()), event(event_time=at.isoformat())
    (tmp_path / "a.jsonl").write_bytes(lines(first, early))
    report = ingest_file(postgres, Landing(str(tmp_path)), "a.jsonl", settings=starting)
    assert (report.inserted, report.rejected) == (1, 1)
    [(position, reason)] = postgres.execute("select position, reason from ops.dead_letters").fetchall()
    assert position == 2
    assert f"expected a time from {at:%Y-%m-%dT%H:%M:%SZ} (USAGE_START_DATE={at:%Y-%m-%d})" in reason


@pytest.mark.parametrize("linked", ["done", "broken", "done/archives", "broken/archives"])
def test_files_are_not_put_away_through_a_link(
    linked: str, tmp_path: Path, postgres: psycopg.Connection, settings: Settings
) -> None:
    """Whoever may write into the folder would choose where the pipeline writes."""
    folder, elsewhere = tmp_path / "landing", tmp_path / "elsewhere"
    elsewhere.mkdir()
    address = "archives/a.jsonl.gz" if "/" in linked else "a.jsonl.gz"
    path, link = folder / address, folder / linked
    for parent in (path.parent, link.parent):
        parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(elsewhere)
    path.write_bytes(b"no gzip" if linked.startswith("broken") else gzip.compress(b""))
    landing = Landing(str(folder))
    ingest_file(postgres, landing, address, settings=settings)
    assert names(elsewhere) == []
    assert path.exists(), "it stays, and is told"
    [fault] = faults_of(postgres, landing.waiting())
    assert (fault.step, fault.reason) == ("move", f"{linked}: expected no symbolic link, came one")


def test_a_reason_is_not_written_through_a_link(
    tmp_path: Path, landing: Landing, read: Callable[[str], FileReport]
) -> None:
    (tmp_path / "a.json").write_bytes(b"nonsense")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/a.json.reason.txt").symlink_to(tmp_path / "of somebody else")
    assert read("a.json").fault == "broken/a.json.reason.txt: expected no symbolic link, came one"
    assert not (tmp_path / "of somebody else").exists()


def test_archives_behind_a_link_are_not_read(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "landing", tmp_path / "elsewhere"
    for one in (folder, elsewhere):
        one.mkdir()
    (elsewhere / "a.jsonl").write_bytes(b"{}")
    (folder / "archives").symlink_to(elsewhere)
    look = Landing(str(folder)).look()
    assert (look.files, look.unread) == ([], ["archives"])


def test_subfolders_and_files_behind_links_are_not_read_and_told(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "landing", tmp_path / "elsewhere"
    (folder / "2026").mkdir(parents=True)
    elsewhere.mkdir()
    (elsewhere / "a.csv").write_bytes(b"{}")
    (folder / "2026" / "11").symlink_to(elsewhere)
    (folder / "2026" / "b.csv").symlink_to(elsewhere / "a.csv")
    os.mkfifo(folder / "2026" / "c.parquet")
    look = Landing(str(folder)).look()
    assert (look.files, look.unread) == ([], ["2026/11", "2026/b.csv", "2026/c.parquet"])


def test_a_file_of_a_subfolder_is_not_moved_through_a_link(
    tmp_path: Path, landing: Landing, read: Callable[[str], FileReport], postgres: psycopg.Connection
) -> None:
    (tmp_path / "2026").mkdir()
    (tmp_path / "2026" / "a.jsonl").write_bytes(lines(event()))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "done").mkdir()
    (tmp_path / "done" / "2026").symlink_to(tmp_path / "elsewhere")
    assert read("2026/a.jsonl").fault == "done/2026: expected no symbolic link, came one"
    assert (tmp_path / "2026" / "a.jsonl").exists()
    assert count_of(postgres, "analytics.usage_events") == 1


def _put_a_link(path: Path, secret: Path) -> None:
    path.symlink_to(secret)


def _put_a_pipe(path: Path, secret: Path) -> None:
    os.mkfifo(path)


def _put_a_folder(path: Path, secret: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize("address", ["a.jsonl", "archives/a.jsonl", "2026/11/a.parquet"])
@pytest.mark.parametrize("put", [_put_a_link, _put_a_pipe, _put_a_folder])
def test_what_is_no_file_any_more_is_not_opened_and_keeps_nobody_waiting(
    put: Callable[[Path, Path], None], address: str, tmp_path: Path, postgres: psycopg.Connection, settings: Settings
) -> None:
    """Its writer replaces a file after it was listed: by a link to what only we may read, or by a pipe."""
    folder, secret = tmp_path / "landing", tmp_path / "environ"
    (folder / address).parent.mkdir(parents=True)
    secret.write_bytes(b"DATABASE_URL=postgresql://owner:secret@db/usage")
    put(folder / address, secret)
    (folder / "b.jsonl").write_bytes(lines(event()))
    landing = settings.model_copy(update={"landing_url": str(folder)})
    replaced, other = ingest_landed(landing, [address, "b.jsonl"], budget_seconds=60)
    assert (replaced.outcome, other.inserted) == ("failed", 1)
    assert f"{address}: expected " in str(replaced.reason)
    assert postgres.execute("select count(*) from ops.dead_letters").fetchone() == (0,)


def test_a_folder_of_archives_that_became_a_link_is_not_read(
    tmp_path: Path, postgres: psycopg.Connection, settings: Settings
) -> None:
    folder, elsewhere = tmp_path / "landing", tmp_path / "elsewhere"
    for one in (folder, elsewhere):
        one.mkdir()
    (elsewhere / "a.jsonl").write_bytes(b"the line of somebody else")
    (folder / "archives").symlink_to(elsewhere)
    landing = settings.model_copy(update={"landing_url": str(folder)})
    [report] = ingest_landed(landing, ["archives/a.jsonl"], budget_seconds=60)
    assert report.reason == "NotAFileError: archives/a.jsonl: expected no symbolic link, came one"
    assert postgres.execute("select count(*) from ops.dead_letters").fetchone() == (0,)


def test_a_file_of_rejected_items_alone_is_not_read_to_its_end(
    tmp_path: Path, read: Callable[[str], FileReport], postgres: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """130 KB of gzip were three million dead letters, and kept all other files waiting."""
    monkeypatch.setattr(module, "ITEMS_PER_BATCH", 10)
    monkeypatch.setattr(module, "MOST_REJECTED", 30)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines(event()) + b'{"a":1}\n' * 100_000))
    report = read("a.jsonl.gz")
    assert (report.outcome, report.inserted, report.rejected) == ("broken", 1, 39)
    assert str(report.reason).endswith("nothing after position 40 was read")
    assert postgres.execute("select count(*) from ops.dead_letters").fetchone() == (39,)
    assert names(tmp_path) == ["broken/a.jsonl.gz", "broken/a.jsonl.gz.reason.txt"]


def test_a_file_of_conflicts_alone_is_not_read_to_its_end(
    tmp_path: Path, read: Callable[[str], FileReport], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ITEMS_PER_BATCH", 10)
    monkeypatch.setattr(module, "MOST_REJECTED", 30)
    one = event()
    (tmp_path / "a.jsonl").write_bytes(lines(*({**one, "input_tokens": number} for number in range(100))))
    report = read("a.jsonl")
    assert (report.outcome, report.inserted, report.conflicts) == ("broken", 1, 39)


def test_large_rejected_items_are_bounded_by_their_bytes(
    tmp_path: Path, read: Callable[[str], FileReport], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BYTES_PER_BATCH", 2_000)
    monkeypatch.setattr(module, "MOST_REJECTED_BYTES", 5_000)
    (tmp_path / "a.jsonl").write_bytes((b'{"a":"' + b"x" * 1_000 + b'"}\n') * 100)
    report = read("a.jsonl")
    assert (report.outcome, report.rejected) == ("broken", 6)


def test_of_an_item_that_is_larger_than_any_event_the_beginning_is_kept(
    tmp_path: Path, read: Callable[[str], FileReport], postgres: psycopg.Connection
) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"a":"' + b"x" * MAX_EVENT_BYTES + b'"}\n' + lines(event()))
    report = read("a.jsonl")
    assert (report.outcome, report.inserted, report.rejected) == ("stored", 1, 1)
    [(reason, size)] = postgres.execute("select reason, octet_length(raw) from ops.dead_letters").fetchall()
    assert size == 65_536
    assert reason.endswith("; only the first 65536 bytes are kept")


def test_a_gzip_file_of_the_same_line_again_and_again_is_not_read_to_its_end(
    tmp_path: Path, postgres: psycopg.Connection, settings: Settings
) -> None:
    """Ten megabytes of it would be hours of duplicates."""
    small = settings.model_copy(update={"max_gzip_size": 10_000})
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines(event()) * 20_000))
    report = ingest_file(postgres, Landing(str(tmp_path)), "a.jsonl.gz", settings=small)
    assert (report.outcome, report.inserted) == ("broken", 1)
    assert "expected at most 200 times as many bytes as the gzip file has" in str(report.reason)
