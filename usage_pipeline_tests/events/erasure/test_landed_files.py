"""Landed files and the erasure of a user: read ones that name the user go, others are listed or left alone."""

import gzip
import json
import os
from pathlib import Path
from typing import Any

import psycopg
import pytest

from usage_pipeline.events.erasure.erase import erase
from usage_pipeline.events.landing.faults import note_fault
from usage_pipeline.events.landing.folder import LandedFile, Landing
from usage_pipeline.events.landing.reading import ingest_file
from usage_pipeline.settings import Settings
from usage_pipeline_tests.events.files.writing import PACKINGS, WRITERS, packed
from usage_pipeline_tests.rigs.events import event

WHO = 'Zoë "Z" 1'


def line(user_id: str) -> bytes:
    return json.dumps(event(user_id=user_id, prompt="secret")).encode() + b"\n"


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_read_files_that_name_the_user_go_and_the_rest_is_listed_until_it_is_gone(
    tmp_path: Path, settings: Settings, postgres: psycopg.Connection
) -> None:
    there = settings.model_copy(update={"landing_url": str(tmp_path)})
    landing = Landing(str(tmp_path))
    (tmp_path / "theirs.jsonl").write_bytes(line(WHO) + line("omar"))
    (tmp_path / "packed.jsonl.gz").write_bytes(gzip.compress(line("omar") + line(WHO)))
    (tmp_path / "unescaped.json").write_bytes(json.dumps([event(user_id=WHO)], ensure_ascii=False).encode())
    (tmp_path / "others.jsonl").write_bytes(line("omar") + line("1"))
    (tmp_path / "cut.json").write_bytes(b"[" + line(WHO))
    for file in landing.waiting():
        ingest_file(postgres, landing, file.address, settings=there)
    (tmp_path / "new.jsonl").write_bytes(line(WHO))

    first = erase(there, WHO)
    assert [problem.partition(":")[0] for problem in first.problems] == ["broken/cut.json", "new.jsonl"]
    assert first.counts["landed:done"] == 3
    left = ["broken/cut.json", "broken/cut.json.reason.txt", "done/others.jsonl", "new.jsonl"]
    assert names(tmp_path) == left
    (tmp_path / "broken" / "cut.json").unlink()
    ingest_file(postgres, landing, "new.jsonl", settings=there)

    second = erase(there, WHO)
    assert (second.problems, second.pseudonym) == ([], first.pseudonym)
    assert names(tmp_path) == ["broken/cut.json.reason.txt", "done/others.jsonl"]
    users = postgres.execute("select user_id, count(*) from analytics.usage_events group by 1").fetchall()
    assert dict(users) == {first.pseudonym: 4, "omar": 3, "1": 1}


CSV_HEAD = ("event_id", "event_time", "user_id", "team", "service", "provider", "model", "input_tokens", "extra")


def row(user_id: object, **changes: Any) -> dict[str, Any]:
    members = event(user_id=user_id, **changes)
    return {name: members.get(name) for name in CSV_HEAD}


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("ending", WRITERS)
def test_a_user_is_found_in_each_kind_of_file_that_is_read(
    ending: str, packing: str, tmp_path: Path, settings: Settings, postgres: psycopg.Connection
) -> None:
    there = settings.model_copy(update={"landing_url": str(tmp_path)})
    landing = Landing(str(tmp_path))
    files = {
        "theirs": [row("omar"), row(WHO)],
        "inside": [row("omar", extra=json.dumps({"asked_by": WHO}) if ending in (".csv", ".parquet") else {"by": WHO})],
        # 100 tokens, and a name that is longer.
        "others": [row("omar", input_tokens=100), row(f"{WHO}0")],
    }
    for name, rows in files.items():
        (tmp_path / "deep").mkdir(exist_ok=True)
        (tmp_path / "deep" / f"{name}{ending}{packing}".upper()).write_bytes(packed(WRITERS[ending](rows), packing))
    for file in landing.waiting():
        assert ingest_file(postgres, landing, file.address, settings=there).reason is None
    first = erase(there, WHO)
    assert (first.problems, first.counts["landed:done"]) == ([], 2)
    assert names(tmp_path) == [f"done/deep/{'others'.upper()}{ending.upper()}{packing.upper()}"]


@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
def test_a_user_whose_id_is_a_number_is_not_a_count(
    name: str, tmp_path: Path, settings: Settings, postgres: psycopg.Connection
) -> None:
    there = settings.model_copy(update={"landing_url": str(tmp_path)})
    write = WRITERS[name.removeprefix("a")]
    (tmp_path / name).write_bytes(write([row(7), row(8)]))
    (tmp_path / f"other-{name}").write_bytes(write([row(70, input_tokens=7)]))
    landing = Landing(str(tmp_path))
    for file in landing.waiting():
        ingest_file(postgres, landing, file.address, settings=there)
    assert erase(there, "7").problems == []
    assert names(tmp_path) == [f"done/other-{name}"]


def test_json_as_a_text_in_json_is_looked_into(
    tmp_path: Path, settings: Settings, postgres: psycopg.Connection
) -> None:
    there = settings.model_copy(update={"landing_url": str(tmp_path)})
    (tmp_path / "done").mkdir()
    metadata = json.dumps({"user_api_key_end_user_id": "ana"})
    (tmp_path / "done" / "a.jsonl").write_text(json.dumps({"request_id": "x", "metadata": metadata}))
    erase(there, "ana")
    assert names(tmp_path) == []


def test_what_cannot_be_looked_into_is_told(tmp_path: Path, settings: Settings, postgres: psycopg.Connection) -> None:
    there = settings.model_copy(update={"landing_url": str(tmp_path)})
    landing = Landing(str(tmp_path))
    (tmp_path / "cut.parquet").write_bytes(WRITERS[".parquet"]([row(WHO)])[:-9])
    (tmp_path / "cut.csv").write_bytes(WRITERS[".csv"]([row("omar"), row("ana")]) + b'"\n')
    for file in landing.waiting():
        assert ingest_file(postgres, landing, file.address, settings=there).outcome == "broken"
    problems = sorted(erase(there, "ana").problems)
    assert [problem[:33] for problem in problems] == [
        "broken/cut.csv: it names the user"[:33],
        "broken/cut.parquet: nobody knows whom"[:33],
    ]


def test_the_reasons_of_landed_files_are_looked_into(
    tmp_path: Path, settings: Settings, postgres: psycopg.Connection
) -> None:
    """An API names its user in an error, and what came may be anybody's. The table keeps it when the file is long gone."""
    there = settings.model_copy(update={"landing_url": str(tmp_path)})
    landing = Landing(str(tmp_path))
    for who in (WHO, "omar"):
        (tmp_path / f"{'theirs' if who == WHO else who}.json").write_text(json.dumps({"error": f"no such user: {who}"}))
    for file in landing.waiting():
        assert ingest_file(postgres, landing, file.address, settings=there).outcome == "broken"
    note_fault(postgres, LandedFile("gone.json", 1, "1"), "read", f"{WHO} may not read")
    (tmp_path / "broken" / "theirs.json").unlink()

    erasure = erase(there, WHO)
    assert erasure.problems == []
    assert erasure.counts == {"ops.landed_files": 1, "ops.landing_faults": 1, "landed:broken": 1}
    reasons = dict(postgres.execute("select address, reason from ops.landed_files").fetchall())
    assert reasons["theirs.json"].endswith(f"answered in their place: no such user: {erasure.pseudonym}")
    assert reasons["omar.json"].endswith("no such user: omar")
    assert postgres.execute("select reason from ops.landing_faults").fetchall() == [
        (f"{erasure.pseudonym} may not read",)
    ]
    for name in ("theirs", "omar"):
        assert (tmp_path / "broken" / f"{name}.json.reason.txt").read_text() == f"{reasons[f'{name}.json']}\n"
    assert erase(there, WHO).counts == {}


def test_nothing_is_deleted_behind_a_link(tmp_path: Path, settings: Settings, postgres: psycopg.Connection) -> None:
    folder, elsewhere = tmp_path / "landing", tmp_path / "elsewhere"
    for one in (folder, elsewhere):
        one.mkdir()
    (elsewhere / "theirs.jsonl").write_bytes(line(WHO))
    for name in ("done", "broken", "archives", "more"):
        (folder / name).symlink_to(elsewhere)
    erasure = erase(settings.model_copy(update={"landing_url": str(folder)}), WHO)
    assert [problem.partition(",")[0] for problem in erasure.problems] == [
        f"{name}: it is a symbolic link" for name in ("archives", "broken", "done", "more")
    ]
    assert names(elsewhere) == ["theirs.jsonl"]


def test_a_pipe_is_told_and_nobody_waits_for_it(
    tmp_path: Path, settings: Settings, postgres: psycopg.Connection
) -> None:
    """Also below `done/`, where the file system lists it as a file."""
    pipes = ["more/a.jsonl", "done/a.jsonl", "a.jsonl"]
    for name in pipes:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        os.mkfifo(tmp_path / name)
    erasure = erase(settings.model_copy(update={"landing_url": str(tmp_path)}), WHO)
    assert sorted(erasure.problems) == [
        f"{name}: expected a file, came something else. Look at it yourself" for name in sorted(pipes)
    ]


def test_rows_that_a_quote_swallowed_are_looked_into(
    tmp_path: Path, settings: Settings, postgres: psycopg.Connection
) -> None:
    there = settings.model_copy(update={"landing_url": str(tmp_path)})
    head, *rows = WRITERS[".csv"]([event(user_id=who) for who in ("omar", "zora", "omar")]).decode().splitlines()
    text = "\n".join([f"{head},prompt", f'{rows[0]},"hi', f"{rows[1]},hi", f'{rows[2]},5"', ""])
    (tmp_path / "a.csv").write_text(text)
    assert ingest_file(postgres, Landing(str(tmp_path)), "a.csv", settings=there).rejected == 1
    erase(there, "zora")
    assert names(tmp_path) == []
    assert b"zora" not in b"".join(raw for (raw,) in postgres.execute("select raw from ops.dead_letters"))
