"""Rejected items of one file are told apart by their place in it, however often and by however many the file is read."""

import gzip
import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import psycopg
import pytest

from usage_pipeline.commands.dead_letters.looking import list_dead_letters
from usage_pipeline.events.files import loading as module
from usage_pipeline.events.landing import reading
from usage_pipeline.events.landing.folder import Landing
from usage_pipeline.events.landing.reading import ingest_file
from usage_pipeline.settings import Settings
from usage_pipeline.storage.postgres import connect
from usage_pipeline_tests.rigs.events import event

BAD = json.dumps(event(team=...))


def positions(postgres: psycopg.Connection) -> list[tuple[Any, ...]]:
    return postgres.execute("select position, raw from ops.dead_letters order by position").fetchall()


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("u.jsonl", f"\n{BAD}\n\r\n  \n{json.dumps(event())}\n{BAD}\n{BAD}\n", [2, 6, 7]),
        ("u.jsonl.gz", f"{BAD}\n\n{BAD}\n", [1, 3]),
        ("u.json", f"[{BAD},\n\n{json.dumps(event())}, {BAD}]", [0, 2]),
        ("u.json", f'{{"events": [{BAD}, {BAD}]}}', [0, 1]),
    ],
)
def test_equal_rejected_items_are_dead_letters_each_with_its_line_or_its_index(
    name: str, content: str, expected: list[int], tmp_path: Path, postgres: psycopg.Connection, settings: Settings
) -> None:
    written = content.encode()
    (tmp_path / name).write_bytes(gzip.compress(written) if name.endswith(".gz") else written)
    report = ingest_file(postgres, Landing(str(tmp_path)), name, settings=settings)
    assert report.rejected == len(expected)
    assert positions(postgres) == [(place, BAD.encode()) for place in expected]
    if ".jsonl" in name:
        assert [written.splitlines()[place - 1] for place in expected] == [BAD.encode()] * len(expected)


@pytest.mark.parametrize("name", ["u.jsonl", "u.ndjson.gz", "u.json"])
def test_a_byte_order_mark_at_the_beginning_is_not_part_of_the_first_item(
    name: str, tmp_path: Path, postgres: psycopg.Connection, settings: Settings
) -> None:
    items = [json.dumps(event()), BAD]
    text = f"[{','.join(items)}]" if name == "u.json" else "".join(f"{one}\n" for one in items)
    written = text.encode("utf-8-sig")
    (tmp_path / name).write_bytes(gzip.compress(written) if name.endswith(".gz") else written)
    report = ingest_file(postgres, Landing(str(tmp_path)), name, settings=settings)
    assert (report.outcome, report.inserted, report.rejected) == ("stored", 1, 1)
    assert positions(postgres) == [(1 if name == "u.json" else 2, BAD.encode())]


def test_a_file_that_is_read_again_after_a_crash_adds_none_and_keeps_what_was_decided(
    tmp_path: Path, postgres: psycopg.Connection, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "u.jsonl").write_text(f"{BAD}\n" * 5)
    monkeypatch.setattr(module, "ITEMS_PER_BATCH", 2)
    landing = Landing(str(tmp_path))
    first = module.ingest
    batches = []

    def dies(*arguments: Any, **options: Any) -> Any:
        if len(batches) == 2:
            raise KeyboardInterrupt
        batches.append(first(*arguments, **options))
        return batches[-1]

    monkeypatch.setattr(module, "ingest", dies)
    with pytest.raises(KeyboardInterrupt):
        ingest_file(postgres, landing, "u.jsonl", settings=settings)
    assert [place for place, _ in positions(postgres)] == [1, 2, 3, 4]
    postgres.execute(
        "update ops.dead_letters set discarded_at = now(), discarded_by = 'a', discard_reason = 'r' where position = 2"
    )
    monkeypatch.setattr(module, "ingest", first)
    assert ingest_file(postgres, landing, "u.jsonl", settings=settings).rejected == 5
    assert [place for place, _ in positions(postgres)] == [1, 2, 3, 4, 5]
    assert postgres.execute("select position from ops.dead_letters where discarded_at is not null").fetchall() == [(2,)]


def test_readers_at_once_add_each_line_once(
    tmp_path: Path, postgres: psycopg.Connection, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock only saves work: without it, the same lines are one dead letter each."""
    (tmp_path / "u.jsonl").write_text(f"{BAD}\n{json.dumps(event())}\n{BAD}\n" * 200)
    monkeypatch.setattr(module, "ITEMS_PER_BATCH", 10)
    monkeypatch.setattr(reading, "_lock", lambda *_: nullcontext(True))

    def read(_: int) -> None:
        with closing(connect(settings)) as connection:
            ingest_file(connection, Landing(str(tmp_path)), "u.jsonl", settings=settings)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(read, range(3)))
    assert [place for place, _ in positions(postgres)] == [line for line in range(1, 601) if line % 3 != 2]
    assert postgres.execute("select count(*) from analytics.usage_events").fetchall() == [(1,)]


def test_the_list_names_the_line(
    tmp_path: Path,
    postgres: psycopg.Connection,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("DATABASE_URL", settings.database_url.get_secret_value())
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "u.jsonl").write_text(f"\n{BAD}\n{BAD}\n")
    (tmp_path / "u.json").write_text(f"[{BAD}]")
    for name in ("u.jsonl", "u.json"):
        ingest_file(postgres, Landing(str(tmp_path)), name, settings=settings)
    list_dead_letters()
    shown = capsys.readouterr().out
    for place in ("line 2", "line 3", "item 0"):
        assert place in shown
    list_dead_letters(source="u.jsonl", limit=1)
    shown = capsys.readouterr().out
    assert "The first 1 dead letter (--limit)" in shown
    assert "line 3" not in shown
