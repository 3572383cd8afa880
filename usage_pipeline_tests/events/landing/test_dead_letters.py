"""Rejected items of landed files, replayed by the command after their cause is mended."""

import json
from pathlib import Path

import psycopg
import pytest
from typer.testing import CliRunner

from usage_pipeline.cli import app
from usage_pipeline.events.landing.folder import Landing
from usage_pipeline.events.landing.reading import ingest_file
from usage_pipeline.settings import Settings
from usage_pipeline_tests.rigs.events import archive, event


@pytest.fixture
def replay(monkeypatch: pytest.MonkeyPatch, database_url: str, redis_url: str) -> CliRunner:
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("REDIS_URL", redis_url)
    return CliRunner()


def replayed(runner: CliRunner) -> tuple[int, dict[str, object]]:
    result = runner.invoke(app, ["dead-letters", "replay", "--json"])
    return result.exit_code, json.loads(result.stdout)


@pytest.mark.parametrize("name", ["\0", "\x1b[2J", "\u202e", "x" * 10_000])
def test_a_member_with_any_name_has_a_dead_letter_that_can_be_stored_and_shown(
    name: str, tmp_path: Path, postgres: psycopg.Connection, settings: Settings
) -> None:
    (tmp_path / "e.jsonl").write_text(f"{json.dumps(event(**{name: 1}))}\n{json.dumps(event())}\n")
    report = ingest_file(postgres, Landing(str(tmp_path)), "e.jsonl", settings=settings)
    assert (report.outcome, report.inserted, report.rejected) == ("stored", 1, 1)
    [(reason,)] = postgres.execute("select reason from ops.dead_letters").fetchall()
    assert reason.isprintable()
    assert len(reason) <= 500


def test_an_archive_that_came_before_its_event_counts_once_after_it(
    tmp_path: Path, postgres: psycopg.Connection, settings: Settings, replay: CliRunner
) -> None:
    late = event()
    (tmp_path / "archives").mkdir()
    (tmp_path / "archives" / "a.jsonl").write_text(f"{json.dumps(archive(late['event_id']))}\n")
    landing = Landing(str(tmp_path))
    assert ingest_file(postgres, landing, "archives/a.jsonl", settings=settings).rejected == 1
    status, answer = replayed(replay)
    assert (status, answer["replayed"]) == (1, 0)
    assert "expected the id of a stored event" in str(answer["refused"])
    assert postgres.execute("select count(*) from ops.ingest_batches where source like 'dead-letter:%'").fetchall() == [
        (0,)
    ]
    (tmp_path / "e.jsonl").write_text(f"{json.dumps(late)}\n")
    ingest_file(postgres, landing, "e.jsonl", settings=settings)
    assert replayed(replay) == (0, {"success": True, "replayed": 1, "refused": [], "in_part": []})
    assert replayed(replay) == (0, {"success": True, "replayed": 0, "refused": [], "in_part": []})
    assert postgres.execute("select event_id::text from analytics.message_archives").fetchall() == [(late["event_id"],)]


def test_a_refused_item_is_stored_under_its_own_id_once_its_usage_is_put_right(
    tmp_path: Path, postgres: psycopg.Connection, settings: Settings, replay: CliRunner
) -> None:
    refused = event(event_id="chatcmpl-213", usage={"cache_read_tokens": 101})
    (tmp_path / "e.ndjson").write_text(f"{json.dumps(refused)}\n")
    assert ingest_file(postgres, Landing(str(tmp_path)), "e.ndjson", settings=settings).rejected == 1
    [(number, reason)] = postgres.execute("select dead_letter_id, reason from ops.dead_letters").fetchall()
    assert reason.startswith("usage.cache_read_tokens: expected at most input_tokens = 100")
    sets = ["--set", 'usage={"cache_read_tokens": 99}', "--set", "service_tier=batch"]
    result = replay.invoke(app, ["dead-letters", "replay", str(number), *sets, "--reason", "counted twice"])
    assert result.exit_code == 0, result.output
    columns = "source, external_id, cache_read_tokens, service_tier"
    assert postgres.execute(f"select {columns} from analytics.usage_events").fetchall() == [
        ("landing", "chatcmpl-213", 99, "batch")
    ]


def test_an_item_that_conflicts_with_a_stored_one_stays_open(
    tmp_path: Path, postgres: psycopg.Connection, settings: Settings, replay: CliRunner
) -> None:
    landing = Landing(str(tmp_path))
    strict = settings.model_copy(update={"retention_days": 1})
    old = event(event_time=(event()["event_time"][:10]) + "T00:00:00Z")
    first = old | {"event_time": "2020-01-01T00:00:00Z"}
    (tmp_path / "a.jsonl").write_text(f"{json.dumps(first)}\n")
    assert ingest_file(postgres, landing, "a.jsonl", settings=strict).rejected == 1
    postgres.execute(
        "update ops.dead_letters set raw = %s", (json.dumps(event(event_id=old["event_id"], model="x")).encode(),)
    )
    (tmp_path / "b.jsonl").write_text(f"{json.dumps(event(event_id=old['event_id']))}\n")
    assert ingest_file(postgres, landing, "b.jsonl", settings=settings).inserted == 1
    status, answer = replayed(replay)
    assert (status, answer["replayed"]) == (1, 0)
    assert "an event with this id and other content is stored" in str(answer["refused"])
    assert postgres.execute("select model from analytics.usage_events").fetchall() == [("gpt-4o",)]
