"""`archive list`, `archive restore` and `erase-user` as a person or a script calls them."""

import json
from functools import partial
from pathlib import Path

import psycopg
import pytest

from usage_pipeline.rollups.dropped.run import run_lifecycle
from usage_pipeline.settings import Settings
from usage_pipeline.storage.archives.manifest import archives
from usage_pipeline_tests.rigs.commands import Run, run_command
from usage_pipeline_tests.storage.lifecycle_rig import EVENT_TABLE, count_of, day, roll_up, store_archives, store_events

OLD = day(10).date()


@pytest.fixture
def archiving(settings: Settings, tmp_path: Path) -> Settings:
    return settings.model_copy(update={"archive_url": str(tmp_path / "archive")})


@pytest.fixture
def run(archiving: Settings) -> Run:
    return partial(run_command, archiving)


@pytest.fixture
def archived(postgres: psycopg.Connection, archiving: Settings) -> None:
    store_events(postgres, archiving, day(10), {}, {"user_id": "user-2"})
    store_archives(postgres, archiving)
    roll_up(postgres)
    assert len(run_lifecycle(archiving).archived) == 2


def test_a_day_is_listed_read_back_and_listed_no_more(archived: None, run: Run, postgres: psycopg.Connection) -> None:
    listed = json.loads(run("archive", "list", "--json").stdout)["archives"]
    assert [(one["table_name"], one["rows"], one["state"]) for one in listed] == [
        ("analytics.message_archives", 2, "archived"),
        (EVENT_TABLE, 2, "archived"),
    ]
    assert EVENT_TABLE in run("archive", "list").stdout
    done = run("archive", "restore", str(OLD), "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert (document["success"], len(document["restored"]), document["failed"]) == (True, 2, [])
    assert count_of(postgres, EVENT_TABLE) == 2
    assert json.loads(run("archive", "list", "--json").stdout) == {"archives": []}
    assert {one["state"] for one in json.loads(run("archive", "list", "--all", "--json").stdout)["archives"]} == {
        "restored"
    }
    again = run("archive", "restore", str(OLD))
    assert again.returncode == 0
    assert "only in a file" in again.stdout


def test_a_damaged_file_is_listed_with_status_1_and_the_others_are_read(
    archived: None, run: Run, postgres: psycopg.Connection, archiving: Settings
) -> None:
    [broken] = archives(postgres, table=EVENT_TABLE)
    (Path(str(archiving.archive_url)) / broken.address).write_bytes(b"x")
    done = run("archive", "restore", str(OLD), "--json")
    assert done.returncode == 1
    document = json.loads(done.stdout)
    assert [one["table"] for one in document["restored"]] == ["analytics.message_archives"]
    assert "expected" in document["failed"][0]["reason"]
    shown = run("archive", "restore", str(OLD))
    assert shown.returncode == 1
    assert broken.address in shown.stderr


def test_what_the_caller_must_mend_is_one_line_and_status_2(archived: None, run: Run) -> None:
    for arguments, variables, expected in [
        (["archive", "restore", "yesterday"], {}, "DAY: expected a date YYYY-MM-DD"),
        (["archive", "restore", str(OLD)], {"ARCHIVE_URL": ""}, "ARCHIVE_URL: expected the folder or address"),
        (["erase-user", "user-1"], {"ARCHIVE_URL": ""}, "ARCHIVE_URL: expected the place of 2 archive files"),
        (["erase-user", ""], {}, "expected a value, came an empty text"),
        (["archive", "list"], {"DATABASE_URL": "postgresql://u:hunter2@127.0.0.1:1/x"}, "PostgreSQL does not answer"),
    ]:
        done = run(*arguments, **variables)
        assert done.returncode == 2, done.stdout
        [line] = done.stderr.strip().splitlines()
        assert expected in line
        assert "hunter2" not in line


def test_a_user_is_erased_with_counts_by_table(archived: None, run: Run) -> None:
    done = run("erase-user", "user-1", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["success"]
    assert document["counts"] == {"file:analytics.message_archives": 2, "file:analytics.usage_events": 1}
    assert document["pseudonym"].startswith("erased-")
    assert "user-1" not in done.stdout + done.stderr
    shown = run("erase-user", "user-2")
    assert "file:analytics.usage_events" in shown.stdout
    assert "user-2" not in shown.stdout + shown.stderr


def test_a_user_whom_nothing_names_is_no_success(run: Run, postgres: psycopg.Connection, archiving: Settings) -> None:
    store_events(postgres, archiving, day(1), {"user_id": "Ana@x.org"}, {"user_id": "jose\u0301"})
    done = run("erase-user", "ana@x.org")
    assert done.returncode == 1
    assert done.stderr.startswith("No such user: nothing has the id 'ana@x.org'. Nothing was erased.\n"), (
        "and no line of a log"
    )
    assert "Did you mean 'Ana@x.org'?" in done.stderr
    document = json.loads(run("erase-user", "jos\u00e9", "--json").stdout)
    assert (document["success"], document["found"], document["near_spellings"]) == (False, False, ["jose\u0301"])
    assert "as ASCII 'jose\\u0301'" in run("erase-user", "jos\u00e9").stderr
    assert run("erase-user", "nobody").returncode == 1


def test_a_user_who_was_erased_before_is_a_success(run: Run, postgres: psycopg.Connection, archiving: Settings) -> None:
    store_events(postgres, archiving, day(1), {"user_id": "nora"})
    secret = {"ERASURE_SECRET": "0123456789abcdef" * 2}
    first = json.loads(run("erase-user", "nora", "--json", **secret).stdout)
    again = run("erase-user", "nora", **secret)
    assert again.returncode == 0
    assert f"Erased before, as {first['pseudonym']}" in again.stdout
    assert run("erase-user", "nora", ERASURE_SECRET="short").returncode == 2
