"""Conflicts are accepted or dismissed once, and stay so until something new comes under the id."""

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from usage_pipeline.checks.windows import conflict_faults
from usage_pipeline.events.corrections.conflicts import Decided, Decision, decide, list_conflicts
from usage_pipeline.events.ingest.batches import ARCHIVES, EVENTS, IngestReport, Kind, ingest
from usage_pipeline.settings import Settings
from usage_pipeline.values import Malformed
from usage_pipeline_tests.rigs.commands import Run
from usage_pipeline_tests.rigs.events import NOW, archive, as_items, event


@pytest.fixture
def stored(postgres: psycopg.Connection, settings: Settings) -> Callable[..., IngestReport]:
    def store(*members: dict[str, Any], kind: Kind = EVENTS) -> IngestReport:
        return ingest(postgres, kind, as_items(*members), source="test", settings=settings, now=NOW)

    return store


@pytest.fixture
def decided(postgres: psycopg.Connection, settings: Settings) -> Callable[..., list[Decided]]:
    def make(decision: Decision, *ids: int) -> list[Decided]:
        return decide(postgres, ids, decision, reason="looked", decided_by="me", settings=settings)

    return make


def open_numbers(postgres: psycopg.Connection) -> list[int]:
    return [one.event_conflict_id for one in list_conflicts(postgres)]


def tokens(postgres: psycopg.Connection) -> list[tuple[int]]:
    return postgres.execute("select input_tokens from analytics.usage_events order by 1").fetchall()


def test_an_accepted_conflict_replaces_what_is_stored(stored: Any, decided: Any, postgres: psycopg.Connection) -> None:
    first = event(input_tokens=1)
    last = first | {"input_tokens": 2_000}
    stored(first, last)
    [number] = open_numbers(postgres)
    assert decided("accepted", number) == [Decided(number, "accepted")]
    assert (tokens(postgres), open_numbers(postgres)) == ([(2_000,)], [])
    assert decided("accepted", number) == [Decided(number, "already")]
    assert [one.outcome for one in decided("dismissed", number)] == ["refused"]
    assert stored(first, last).duplicates == 2
    assert postgres.execute("select reason, corrected_by from ops.corrections").fetchall() == [("looked", "me")]


def test_a_dismissed_conflict_leaves_the_check_and_only_new_content_opens_another(
    stored: Any, decided: Any, postgres: psycopg.Connection
) -> None:
    first = event(input_tokens=1)
    stored(first, first | {"input_tokens": 2})
    [number] = open_numbers(postgres)
    assert len(conflict_faults(postgres, NOW - timedelta(days=1))) == 1
    assert decided("dismissed", number) == [Decided(number, "dismissed")]
    stored(first | {"input_tokens": 2})
    assert conflict_faults(postgres, NOW - timedelta(days=1)) == []
    assert postgres.execute("select times, outcome from ops.event_conflicts").fetchall() == [(2, "dismissed")]
    assert postgres.execute("select subject from ops.corrections").fetchall() == [(f"conflict {number}",)]
    stored(first | {"input_tokens": 3})
    assert (len(open_numbers(postgres)), tokens(postgres)) == (1, [(1,)])


def test_conflicts_of_archives_are_dismissed_only(stored: Any, decided: Any, postgres: psycopg.Connection) -> None:
    first = event()
    stored(first)
    stored(archive(first["event_id"]), archive(first["event_id"], prompt_full="other"), kind=ARCHIVES)
    [number] = open_numbers(postgres)
    [refused] = decided("accepted", number)
    assert (refused.outcome, f"conflicts dismiss {number}" in refused.refusal) == ("refused", True)
    assert decided("dismissed", number) == [Decided(number, "dismissed")]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_replaced_event_ends_the_conflict_with_the_same_content(
    stored: Any, postgres: psycopg.Connection, run: Run, tmp_path: Path, encoding: str
) -> None:
    first = event(input_tokens=1)
    last = first | {"input_tokens": 2}
    stored(first, last)
    file = tmp_path / "fixed.json"
    file.write_text(json.dumps({"events": [last]}, indent=1), encoding=encoding)
    done = run("events", "replace", file, "--reason", "final usage", "--json")
    assert (done.returncode, json.loads(done.stdout)) == (
        0,
        {"success": True, "corrected": 1, "already": 0, "refused": []},
    )
    assert (open_numbers(postgres), tokens(postgres)) == ([], [(2,)])


def test_the_list_names_the_event_its_source_and_what_differs(
    stored: Any, postgres: psycopg.Connection, run: Run
) -> None:
    first = event(event_id="chatcmpl-213", source="gateway-1", input_tokens=1, extra={"a": 1}, latency_ms=None)
    stored(first, first | {"input_tokens": 2_000, "team": "other", "extra": {"a": 2}, "latency_ms": 7})
    plain = event()
    stored(plain, plain | {"model": "gpt-5"})
    stored(archive(plain["event_id"]), archive(plain["event_id"], prompt_full="other"), kind=ARCHIVES)
    gone = event()
    stored(gone, gone | {"model": "gpt-5"})
    postgres.execute("delete from analytics.usage_events where event_id = %s", (gone["event_id"],))
    listed = json.loads(run("conflicts", "list", "--json").stdout)["conflicts"]
    said = [(one["kind"], one["source"], one["external_id"], one["differs"]) for one in listed]
    assert said == [
        (
            *("events", "gateway-1", "chatcmpl-213"),
            ["extra", "input_tokens 1 → 2000", "latency_ms none → 7", "team", "total_tokens 21 → 2020"],
        ),
        ("events", None, None, ["model"]),
        ("archives", None, None, ["prompt_full"]),
        ("events", None, None, None),
    ]
    assert [json.loads(one["other_payload"])["team"] for one in listed if one["external_id"]] == ["other"]
    shown = run("conflicts", "list").stdout
    for part in ("chatcmpl-213", "gateway-1", "input_tokens 1 → 2000", plain["event_id"], "archived, or was taken out"):
        assert part in shown


def test_no_decision_without_a_reason(stored: Any, postgres: psycopg.Connection, settings: Settings) -> None:
    first = event(input_tokens=1)
    stored(first, first | {"input_tokens": 2})
    with pytest.raises(Malformed, match="reason: expected"):
        decide(postgres, open_numbers(postgres), "dismissed", reason=" ", decided_by="me", settings=settings)
    assert len(open_numbers(postgres)) == 1


def test_the_commands_tell_what_became_of_each(
    stored: Any, postgres: psycopg.Connection, run: Run, tmp_path: Path
) -> None:
    first, second = event(input_tokens=1), event(input_tokens=1)
    stored(first, second, first | {"input_tokens": 2})
    file = tmp_path / "fixed.jsonl"
    file.write_text(json.dumps(second | {"input_tokens": 7}) + "\n" + json.dumps(event()) + "\n")
    replaced = run("events", "replace", file, "--reason", "wrong unit", "--json")
    told = json.loads(replaced.stdout)
    assert (replaced.returncode, told["corrected"], [one["index"] for one in told["refused"]]) == (1, 1, [1])
    assert "expected the id of a stored event" in run("events", "replace", file, "--reason", "again").stdout
    listed = json.loads(run("conflicts", "list", "--json").stdout)["conflicts"]
    assert json.loads(listed[0]["other_payload"])["input_tokens"] == 2
    number = listed[0]["event_conflict_id"]
    assert run("conflicts", "accept", number, "--reason", "stream").returncode == 0
    assert run("conflicts", "accept", number + 1, "--reason", "stream").returncode == 1
    assert json.loads(run("conflicts", "list", "--json").stdout) == {"conflicts": [], "has_more": False}
    assert f"no conflict has the number {number + 1}" in run("conflicts", "dismiss", number + 1, "--reason", "x").stdout
    unknown = run("events", "void", "chatcmpl-1", "--source", "gateway", "--reason", "x")
    assert (unknown.returncode, "chatcmpl-1" in unknown.stdout) == (1, True)
    voided = run("events", "void", second["event_id"], "--reason", "test traffic")
    assert (voided.returncode, tokens(postgres)) == (0, [(2,)])
    assert "1 was so already" in run("events", "void", second["event_id"], "--reason", "test traffic").stdout
    for command in (
        ["events", "void", second["event_id"]],
        ["events", "void", "chatcmpl-1", "--reason", "x"],
        ["events", "void", second["event_id"], "--reason", " "],
        ["conflicts", "dismiss", number],
        ["events", "replace", tmp_path / "none.json", "--reason", "x"],
    ):
        refused = run(*command)
        assert (refused.returncode, "Traceback" in refused.stderr) == (2, False), command
    who = postgres.execute("select distinct corrected_by like '%@%' from ops.corrections").fetchall()
    assert who == [(True,)]
