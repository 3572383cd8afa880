"""Answers of APIs as files: one page of more is told, and so is an error in place of items."""

import json
from pathlib import Path
from typing import Any

import psycopg
import pytest

from usage_pipeline.events.landing.folder import Landing
from usage_pipeline.events.landing.reading import ingest_file
from usage_pipeline.settings import Settings
from usage_pipeline_tests.events.files.test_kinds import load
from usage_pipeline_tests.events.formats.test_openai_usage import bucket, result
from usage_pipeline_tests.rigs.commands import Run
from usage_pipeline_tests.rigs.events import event

OPENAI = {"object": "page", "data": [bucket(result())]}
NEXT = "AAAAAGdGxdEiJdKOAAAAAGcqsYA="


@pytest.mark.parametrize(
    ("beside", "note"),
    [
        (
            {"has_more": True, "next_page": NEXT},
            f"it is one page of more (has_more is true): fetch the next one with page={NEXT}, and load it as well",
        ),
        ({"has_more": True}, "fetch the next one with its next page"),
        ({"meta": {"page": 1, "limit": 50, "totalPages": 3}}, "it is page 1 of 3: fetch the others with page=2"),
        ({"meta": {"cursor": "eyJ0"}}, "fetch the next one with cursor=eyJ0"),
        ({"page": 2, "total_pages": 3}, "it is page 2 of 3: fetch the others with page=3"),
    ],
)
def test_a_page_of_more_is_stored_and_told(
    beside: dict[str, Any], note: str, tmp_path: Path, postgres: psycopg.Connection, settings: Settings, run: Run
) -> None:
    (tmp_path / "page.json").write_text(json.dumps({**OPENAI, **beside}))
    landing = Landing(str(tmp_path))
    report = ingest_file(postgres, landing, "page.json", settings=settings)
    assert (report.outcome, report.inserted) == ("stored", 1)
    [said] = report.notes
    assert note in said
    assert said in " ".join(run("load", "events", str(tmp_path / "done" / "page.json")).stdout.split())


@pytest.mark.parametrize(
    "beside",
    [
        {"has_more": False, "next_page": None},
        {"meta": {"page": 3, "totalPages": 3}},
        {"meta": {"cursor": None}},
        {"page": 1, "total_pages": 1},
        {"meta": "none", "has_more": "x" * 2**17},
    ],
)
def test_of_the_last_page_nothing_is_told(
    beside: dict[str, Any], tmp_path: Path, postgres: psycopg.Connection, settings: Settings
) -> None:
    (tmp_path / "page.json").write_text(json.dumps({**OPENAI, **beside}))
    done = load(postgres, settings, tmp_path / "page.json")
    assert (done.inserted, done.notes) == (1, [])


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"error": {"message": "Incorrect API key provided: sk-…abcd.", "type": "x"}}, "Incorrect API key provided: "),
        ({"error": "UnauthorizedError", "message": "Invalid credentials."}, "UnauthorizedError"),
        ({"detail": "Not Found"}, "Not Found"),
        ({"error": {"message": "x" * 5_000}}, "x" * 299 + "…"),
    ],
)
@pytest.mark.parametrize("row_format", [None, "openai-usage"])
def test_an_error_in_place_of_items_is_told_with_its_message(
    answer: dict[str, Any],
    message: str,
    row_format: Any,
    tmp_path: Path,
    postgres: psycopg.Connection,
    settings: Settings,
) -> None:
    (tmp_path / "usage.json").write_text(json.dumps(answer, indent=2))
    done = load(postgres, settings, tmp_path / "usage.json", row_format=row_format)
    assert done.received == 0
    assert done.reason is not None
    assert done.reason.startswith(f"expected items, came an error that was answered in their place: {message}")
    assert len(done.reason) < 400


def test_an_event_that_has_an_error_is_none_of_an_api(
    tmp_path: Path, postgres: psycopg.Connection, settings: Settings
) -> None:
    (tmp_path / "one.json").write_text(json.dumps(event(error_type="Timeout")))
    (tmp_path / "many.json").write_text(json.dumps({"events": [event()]}))
    assert [load(postgres, settings, tmp_path / name).inserted for name in ("one.json", "many.json")] == [1, 1]
