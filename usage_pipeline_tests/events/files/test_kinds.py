"""Each kind of file is read, however it is packed and spelled, from the landing folder and by the command."""

import json
import os
from pathlib import Path
from typing import Any

import fsspec
import psycopg
import pytest

from usage_pipeline.commands.load_events import load_events
from usage_pipeline.events.files.loading import Loaded, Source, load_file
from usage_pipeline.events.files.names import FORMATS, kind_of
from usage_pipeline.events.landing.folder import Landing
from usage_pipeline.events.landing.reading import ingest_file
from usage_pipeline.settings import Settings
from usage_pipeline_tests.events.files.writing import PACKINGS, WRITERS, as_csv, as_lines, as_parquet, packed, zstd
from usage_pipeline_tests.rigs.commands import Run
from usage_pipeline_tests.rigs.events import archive, event

ROWS = [event(tags={"project": "apollo"}), event(cost_usd="0.10", usage={"cache_read_tokens": 7})]
STORED = """
    select external_id, event_id::text, event_time, user_id, team, service, provider, model, input_tokens, output_tokens,
           latency_ms, status_code, cost_usd, tags, cache_read_tokens
    from analytics.usage_events order by event_id
"""


def load(postgres: psycopg.Connection, settings: Settings, path: Path, **options: Any) -> Loaded:
    kind = kind_of(path.name)
    assert kind is not None
    with path.open("rb") as stream:
        source = Source(f"file:{path.name}", kind, is_local=True, **options)
        return load_file(postgres, stream, source, settings=settings, most_rejections_kept=100)


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("ending", WRITERS)
def test_each_kind_is_the_same_event(
    ending: str, packing: str, tmp_path: Path, postgres: psycopg.Connection, settings: Settings
) -> None:
    """As lines of JSON, which the landing folder has always read, are stored."""
    (tmp_path / "a.jsonl").write_bytes(as_lines(ROWS))
    assert load(postgres, settings, tmp_path / "a.jsonl").inserted == 2
    expected = postgres.execute(STORED).fetchall()
    postgres.execute("truncate analytics.usage_events, analytics.usage_event_ids cascade")

    folder = tmp_path / "landing" / "2026" / "11"
    folder.mkdir(parents=True)
    name = f"U{ending}{packing}".upper()
    (folder / name).write_bytes(packed(WRITERS[ending](ROWS), packing))
    landing = Landing(str(tmp_path / "landing"))
    [file] = landing.waiting()
    report = ingest_file(postgres, landing, file.address, settings=settings)
    assert (report.outcome, report.reason, report.inserted) == ("stored", None, 2)
    assert postgres.execute(STORED).fetchall() == expected
    assert (tmp_path / "landing" / "done" / "2026" / "11" / name).exists()

    # By the command it is the same file: it was loaded before.
    again = load(postgres, settings, tmp_path / "landing" / "done" / "2026" / "11" / name)
    assert (again.inserted, again.duplicates, again.conflicts, again.rejected) == (0, 2, 0, 0)


@pytest.mark.parametrize("name", ["a.csv", "a.parquet.zst", "a.parquet", "a.jsonl.zst"])
def test_files_of_a_store_are_read(name: str, postgres: psycopg.Connection, settings: Settings) -> None:
    memory = fsspec.filesystem("memory")
    ending, _, packing = name.removeprefix("a").partition(".z")
    content = packed(WRITERS[ending](ROWS), f".z{packing}" if packing else "")
    memory.pipe_file(f"/kinds/deep/er/{name}", content)
    try:
        landing = Landing("memory://kinds")
        [file] = landing.waiting()
        assert ingest_file(postgres, landing, file.address, settings=settings).inserted == 2
        assert memory.exists(f"/kinds/done/deep/er/{name}")
    finally:
        memory.rm("/kinds", recursive=True)


@pytest.mark.parametrize("name", ["archives/2026/a.csv", "archives/a.parquet", "archives/x/y/a.jsonl.zst"])
def test_archives_are_read_in_subfolders(
    name: str, tmp_path: Path, postgres: psycopg.Connection, settings: Settings
) -> None:
    (tmp_path / "e.jsonl").write_bytes(as_lines(ROWS))
    load(postgres, settings, tmp_path / "e.jsonl")
    rows = [archive(row["event_id"]) for row in ROWS]
    ending = name.removesuffix(".zst")[name.index(".") :]
    path = tmp_path / "landing" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(packed(WRITERS[ending](rows), ".zst" if name.endswith(".zst") else ""))
    report = ingest_file(postgres, Landing(str(tmp_path / "landing")), name, settings=settings)
    assert (report.reason, report.inserted) == (None, 2)
    texts = postgres.execute("select distinct prompt_full, response_full from analytics.message_archives").fetchall()
    assert texts == [("What is a ledger?", "A book of accounts.")]


def test_the_command_tells_what_became_of_each_file(run: Run, tmp_path: Path) -> None:
    bad = [event(team=""), event(input_tokens="many")]
    (tmp_path / "good.csv").write_bytes(as_csv(ROWS))
    (tmp_path / "bad.csv").write_bytes(as_csv([*bad, event()]))
    (tmp_path / "cut.parquet").write_bytes(as_parquet(ROWS)[:-10])
    names = [str(tmp_path / name) for name in ("good.csv", "bad.csv", "cut.parquet", "none.csv", "notes.txt")]
    (tmp_path / "notes.txt").write_text("no")

    done = run("load", "events", *names, "--json")
    assert done.returncode == 1, done.stderr
    document = json.loads(done.stdout)
    assert not document["success"]
    good, wrong, cut, none, notes = document["files"]
    assert (good["format"], good["stored"], good["rejected"], good["fault"]) == ("events", 2, 0, None)
    assert (wrong["stored"], wrong["rejected"], wrong["more_rejections"]) == (1, 2, 0)
    assert [one["line"] for one in wrong["rejections"]] == [2, 3]
    assert "team" in wrong["rejections"][0]["reason"]
    assert "input_tokens" in wrong["rejections"][1]["reason"]
    assert "expected a whole Parquet file" in cut["fault"]
    assert "No such file" in none["fault"]
    assert "*.parquet" in notes["fault"]

    shown = run("load", "events", *names)
    assert shown.returncode == 1
    assert f"{names[1]}: line 3: " in shown.stderr
    assert "duplicates" in shown.stdout
    assert run("load", "events", names[0]).returncode == 0
    assert json.loads(run("dead-letters", "list", "--json").stdout)["dead_letters"] == [], "its caller has heard of it"


def test_many_rejected_rows_are_shown_up_to_a_bound(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(as_csv([event(team="") for _ in range(25)]))
    done = run("load", "events", str(tmp_path / "a.csv"))
    assert done.returncode == 1
    assert done.stderr.count(": line ") == 20
    assert "and 5 more" in done.stderr


def test_a_folder_is_no_file_and_a_pipe_is_not_waited_for(run: Run, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    done = run("load", "events", str(tmp_path), str(tmp_path / "pipe.csv"), "--json")
    assert done.returncode == 1
    faults = [file["fault"] for file in json.loads(done.stdout)["files"]]
    assert "directory" in faults[0]
    assert "no file" in faults[1]


@pytest.mark.parametrize(
    "content",
    [
        as_csv(ROWS),
        as_lines(ROWS),
        as_parquet(ROWS),
        zstd(as_csv(ROWS)),
        packed(as_lines(ROWS), ".gz"),
        json.dumps(ROWS).encode(),
    ],
    ids=["csv", "lines", "parquet", "csv.zst", "lines.gz", "document"],
)
def test_standard_input_is_of_any_kind(
    content: bytes, tmp_path: Path, settings: Settings, postgres: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "input"
    path.write_bytes(content)
    monkeypatch.setenv("DATABASE_URL", settings.database_url.get_secret_value())
    with path.open() as stream:
        monkeypatch.setattr("sys.stdin", stream)
        assert load_events(["-"], None, as_json=True)
    assert postgres.execute("select count(*) from analytics.usage_events").fetchone() == (2,)


@pytest.mark.parametrize("arguments", [["--format", "xml", "a.csv"], [], ["-", "-"]])
def test_wrong_usage_is_one_line_and_2(arguments: list[str], run: Run) -> None:
    assert run("load", "events", *arguments).returncode == 2


def test_formats_of_the_command_are_those_that_are_read() -> None:
    from usage_pipeline.commands.load import RowFormat

    assert [one.value for one in RowFormat] == ["auto", *FORMATS]
