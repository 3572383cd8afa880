"""What lies in the landing folder and is not read is told, and what cannot be read or moved starves nothing."""

import json
from pathlib import Path
from typing import Any

import fsspec
import psycopg
import pytest

from usage_pipeline.checks.landing import landing_faults
from usage_pipeline.events.landing import faults as module
from usage_pipeline.events.landing import folder
from usage_pipeline.events.landing.faults import due_files
from usage_pipeline.events.landing.folder import Landing
from usage_pipeline.events.landing.reading import FileReport, ingest_file
from usage_pipeline.settings import Settings
from usage_pipeline_tests.rigs.events import event

UNREAD = [
    "2026/11/28/u.txt",
    "U.XLSX",
    "archives/a.tsv",
    "u.jsonl.bz2",
    "u.zst",
]
READ = [
    "2026/11/28/u.jsonl",
    "U.JSONL",
    "a.csv",
    "a.jsonl",
    "a.parquet",
    "date=2026-11-28/u.jsonl.gz",
    "litellm-spend-logs/u.CSV.Gz",
    "u.jsonl.zst",
    "u.parquet.ZST",
    "archives/b.json.gz",
    "archives/x/a.jsonl",
]
NOT_FINISHED_OR_PUT_AWAY = [
    ".u.csv",
    "_u.csv",
    "_tmp/u.jsonl",
    "archives/_a.csv",
    "done/a.csv",
    "broken/2026/a.csv",
    "broken/a.jsonl.reason.txt",
]


def line() -> bytes:
    return json.dumps(event()).encode() + b"\n"


@pytest.fixture(params=["folder", "store"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """A local folder, and a store whose folders are only parts of names."""
    if request.param == "folder":
        yield str(tmp_path)
        return
    yield "memory://landing"
    memory = fsspec.filesystem("memory")
    if memory.exists("/landing"):
        memory.rm("/landing", recursive=True)


def put(landing: Landing, *addresses: str) -> None:
    for address in addresses:
        path = landing.path(address)
        landing.files.makedirs(path.rpartition("/")[0], exist_ok=True)
        landing.files.pipe_file(path, line())


def test_what_is_of_no_kind_that_is_read_is_listed(url: str) -> None:
    landing = Landing(url)
    assert landing.look().said == ""
    put(landing, *READ, *UNREAD, *NOT_FINISHED_OR_PUT_AWAY)
    look = landing.look()
    assert [file.address for file in look.files] == READ
    assert (sorted(look.unread), look.is_all) == (UNREAD, True)
    assert look.said.startswith("5 files are of no kind that is read, for example ")
    assert [file.row_format for file in look.files if "litellm" in file.address] == ["litellm-spend-logs"]


def test_a_large_tree_is_not_walked_to_its_end(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "MOST_FOLDERS", 3)
    landing = Landing(url)
    put(landing, "a.jsonl", *(f"{number}/u.jsonl" for number in range(5)))
    look = landing.look()
    assert ([file.address for file in look.files], look.is_all) == (
        ["0/u.jsonl", "1/u.jsonl", "2/u.jsonl", "a.jsonl"],
        False,
    )
    assert look.said.startswith("3/ and what comes after it is not looked at: expected at most 3 subfolders")


def test_a_deep_tree_is_not_walked_to_its_end(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "MOST_LEVELS", 2)
    landing = Landing(url)
    put(landing, "a/b/u.jsonl", "a/b/c/u.jsonl")
    look = landing.look()
    assert ([file.address for file in look.files], look.unlisted, look.is_all) == (["a/b/u.jsonl"], "a/b/c", False)


class NoDelete(Landing):
    """A bucket from which nothing may be deleted: a move copies, and then fails."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        files = type(self.files)(skip_instance_cache=True)
        self.files = files
        self.may_delete = False
        allowed = files.rm_file

        def rm_file(path: str) -> None:
            if not self.may_delete:
                raise PermissionError(f"AccessDenied: {path}")
            allowed(path)

        def mv(source: str, target: str, **_: Any) -> None:
            files.cp_file(source, target)
            rm_file(source)

        files.rm_file = rm_file
        files.mv = mv


@pytest.fixture
def no_delete(url: str) -> NoDelete:
    return NoDelete(url)


def look_and_read(postgres: psycopg.Connection, landing: Landing, settings: Settings) -> list[FileReport]:
    files = due_files(postgres, landing.waiting())
    return [ingest_file(postgres, landing, file.address, settings=settings) for file in files]


def make_due(postgres: psycopg.Connection, minutes: int) -> None:
    postgres.execute(
        "update ops.landing_faults set last_failed_at = last_failed_at - make_interval(mins => %s)", (minutes,)
    )


def test_files_that_cannot_be_moved_are_read_once_and_starve_no_other(
    no_delete: NoDelete, url: str, postgres: psycopg.Connection, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_FILES", 3)
    put(no_delete, *(f"{number}.jsonl" for number in range(8)))
    read = [[report.address for report in look_and_read(postgres, no_delete, settings)] for _ in range(4)]
    assert read == [["0.jsonl", "1.jsonl", "2.jsonl"], ["3.jsonl", "4.jsonl", "5.jsonl"], ["6.jsonl", "7.jsonl"], []]
    assert postgres.execute("select count(*) from analytics.usage_events").fetchall() == [(8,)]

    there = settings.model_copy(update={"landing_url": url})
    found = landing_faults(postgres, there)
    assert len(found) == 8
    assert found[0].startswith("0.jsonl: was read and cannot be moved, 1 time since ")
    assert "PermissionError: AccessDenied" in found[0]

    # Tried again, more and more rarely, and neither read nor copied again.
    make_due(postgres, 10)
    assert len(look_and_read(postgres, no_delete, settings)) == 8
    make_due(postgres, 10)
    assert look_and_read(postgres, no_delete, settings) == []
    make_due(postgres, 10)
    monkeypatch.setattr(module, "MOST_RETRIES", 2)
    assert len(look_and_read(postgres, no_delete, settings)) == 2
    assert len(no_delete.addresses("done")) == 8
    assert postgres.execute("select count(*), sum(received) from ops.landed_files").fetchall() == [(8, 8)]

    no_delete.may_delete = True
    for _ in range(4):
        look_and_read(postgres, no_delete, settings)
        make_due(postgres, 24 * 60)
    assert no_delete.waiting() == []
    assert len(no_delete.addresses("done")) == 8
    assert landing_faults(postgres, there) == []
    assert postgres.execute("select count(*) from ops.landing_faults").fetchall() == [(0,)]
    assert postgres.execute("select count(*) from analytics.usage_events").fetchall() == [(8,)]


def test_another_content_under_the_name_of_a_file_with_a_fault_is_another_file(
    no_delete: NoDelete, postgres: psycopg.Connection, settings: Settings
) -> None:
    put(no_delete, "a.jsonl")
    assert look_and_read(postgres, no_delete, settings)[0].fault is not None
    no_delete.files.pipe_file(no_delete.path("a.jsonl"), line() + line())
    [report] = look_and_read(postgres, no_delete, settings)
    assert report.inserted == 2


def test_the_check_tells_what_is_not_read(url: str, postgres: psycopg.Connection, settings: Settings) -> None:
    assert landing_faults(postgres, settings) == []
    there = settings.model_copy(update={"landing_url": url})
    put(Landing(url), "a.jsonl", "2026/u.txt", "u.tsv")
    assert sorted(fault.partition(":")[0] for fault in landing_faults(postgres, there)) == ["2026/u.txt", "u.tsv"]
