"""Langfuse's observations in the names of its exports and of its API, of this version and of earlier ones."""

import json
from contextlib import suppress
from datetime import UTC, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from usage_pipeline.events.formats.langfuse import NoCall, event_of
from usage_pipeline.events.ingest.model import EventWindow, parse_event
from usage_pipeline.events.landing.folder import Landing
from usage_pipeline.events.landing.reading import ingest_file
from usage_pipeline.settings import Settings, load_settings
from usage_pipeline.values import Malformed
from usage_pipeline_tests.events.files.test_kinds import load
from usage_pipeline_tests.events.files.writing import as_csv, as_document, as_lines, as_parquet
from usage_pipeline_tests.rigs.events import NOW

AT = NOW.astimezone(UTC)
# The fields of its API (`ObservationV2` of langfuse 5.0.4) and of exports from its pages.
GENERATION = {
    "id": "obs-1",
    "traceId": "trace-1",
    "projectId": "clx1",
    "environment": "production",
    "type": "GENERATION",
    "name": "answer",
    "startTime": AT.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
    "endTime": (AT + timedelta(milliseconds=850)).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
    "level": "DEFAULT",
    "statusMessage": None,
    "parentObservationId": "span-1",
    "model": "gpt-4o",
    "userId": "user-1",
    "traceName": "chat",
    "traceTags": ["project:apollo", "prod"],
    "metadata": {"team": "search", "ls_provider": "openai"},
    "usageDetails": {"input": 200, "output": 50, "input_cached_tokens": 800, "total": 1_050},
    "costDetails": {"input": 0.0015, "output": 0.0005, "total": 0.002},
    "totalCost": 0.002,
    "input": [{"role": "user", "content": "secret"}],
    "output": "secret",
}
# The same one as in the exports to a store (`observations_v2/`).
IN_A_STORE = {
    "id": "obs-1",
    "trace_id": "trace-1",
    "project_id": "clx1",
    "environment": "production",
    "type": "GENERATION",
    "name": "answer",
    "start_time": AT.strftime("%Y-%m-%d %H:%M:%S.000000"),
    "end_time": (AT + timedelta(milliseconds=850)).strftime("%Y-%m-%d %H:%M:%S.850000"),
    "level": "DEFAULT",
    "status_message": "",
    "parent_observation_id": "span-1",
    "provided_model_name": "gpt-4o",
    "user_id": "user-1",
    "trace_name": "chat",
    "tags": ["project:apollo", "prod"],
    "metadata": {"team": "search", "ls_provider": "openai"},
    "usage_details": {"input": 200, "output": 50, "input_cached_tokens": 800, "total": 1_050},
    "cost_details": {"input": 0.0015, "output": 0.0005, "total": 0.002},
    "total_cost": 0.002,
    "input": "secret",
    "output": "secret",
}
EVENT = {
    "event_id": "obs-1",
    "source": "langfuse",
    "event_time": AT.isoformat(),
    "user_id": "user-1",
    "team": "search",
    "service": "chat",
    "provider": "openai",
    "model": "gpt-4o",
    "input_tokens": 1_000,
    "output_tokens": 50,
    "usage": {"cache_read_tokens": 800},
    "cost_usd": 0.002,
    "latency_ms": 850,
    "tags": {"environment": "production", "name": "answer", "trace_name": "chat", "project": "apollo", "prod": "true"},
}
SPANS = [
    {**GENERATION, "id": f"other-{kind}", "type": kind}
    for kind in ("SPAN", "EVENT", "AGENT", "TOOL", "CHAIN", "RETRIEVER", "EVALUATOR", "GUARDRAIL")
]


def texts(row: dict[str, Any]) -> dict[str, Any]:
    return {name: json.dumps(cell) if isinstance(cell, dict | list) else cell for name, cell in row.items()}


@pytest.mark.parametrize("row", [GENERATION, IN_A_STORE, texts(GENERATION), texts(IN_A_STORE)])
def test_an_observation_becomes_the_same_event_under_each_of_its_names(row: dict[str, Any]) -> None:
    assert event_of(row) == EVENT


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", as_document([*SPANS, GENERATION])),
        ("a.jsonl", as_lines([*SPANS, GENERATION])),
        ("page.json", json.dumps({"data": [*SPANS, GENERATION], "meta": {"page": 1}}).encode()),
        ("a.csv", as_csv([*SPANS, GENERATION])),
        ("store.jsonl", as_lines([{**IN_A_STORE, "id": "s", "type": "SPAN"}] * 8 + [IN_A_STORE])),
        ("store.csv", as_csv([{**IN_A_STORE, "id": "s", "type": "SPAN"}] * 8 + [IN_A_STORE])),
        ("store.parquet", as_parquet([{**IN_A_STORE, "id": "s", "type": "SPAN"}] * 8 + [IN_A_STORE])),
        ("pandas.csv", pd.DataFrame([texts(row) for row in [*SPANS, GENERATION]]).to_csv().encode()),
    ],
)
def test_only_generations_of_an_export_count(
    name: str, content: bytes, tmp_path: Path, postgres: psycopg.Connection, settings: Settings
) -> None:
    (tmp_path / name).write_bytes(content)
    done = load(postgres, settings, tmp_path / name)
    assert (done.row_format, done.reason, done.rejections) == ("langfuse", None, [])
    assert (done.inserted, done.passed) == (1, 8)
    assert "8 rows are no request to a model" in done.notes[0]
    columns = "external_id, input_tokens, output_tokens, cache_read_tokens, cost_usd::float, latency_ms, user_id, team, prompt"
    [row] = postgres.execute(f"select {columns} from analytics.usage_events").fetchall()
    assert row == ("obs-1", 1_000, 50, 800, 0.002, 850, "user-1", "search", None)
    (tmp_path / "again.json").write_bytes(as_document([GENERATION]))
    again = load(postgres, settings, tmp_path / "again.json")
    assert (again.inserted, again.duplicates) == (0, 1)


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        # Langfuse's own: its types exclude each other, and the total is their sum.
        ({"usageDetails": {"input": 5, "cache_read_input_tokens": 128_000, "cache_creation_input_tokens": 1_200, "output": 500,
                           "total": 129_705}},
         (129_205, 500, {"cache_read_tokens": 128_000, "cache_write_tokens": 1_200})),
        # Of a sender whose input has its parts in it.
        ({"usageDetails": {"input": 1_000, "output": 50, "input_cached_tokens": 800, "total": 1_050}},
         (1_000, 50, {"cache_read_tokens": 800})),
        ({"usageDetails": {"input": 10, "output": 20, "output_reasoning_tokens": 30, "total": 60}},
         (10, 50, {"output_reasoning_tokens": 30})),
        ({"usageDetails": {"input": 10, "output": 20, "input_audio_tokens": 5}}, (15, 20, {"input_audio_tokens": 5})),
        ({"usageDetails": {"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 30}}, (10, 20, None)),
        # Earlier versions.
        ({"usage": {"input": 10, "output": 20, "total": 30, "unit": "TOKENS"}}, (10, 20, None)),
        ({"usage": '{"input": 10, "output": 20, "total": 30, "unit": null}'}, (10, 20, None)),
        ({"usage": {"input": 10, "output": 20, "total": 30, "unit": "CHARACTERS"}}, (None, None, None)),
        ({"promptTokens": "10", "completionTokens": "20", "totalTokens": "30"}, (10, 20, None)),
        ({"inputUsage": 10, "outputUsage": 20, "totalUsage": 30, "usageDetails": {}}, (10, 20, None)),
        ({"totalTokens": 30}, (None, None, None)),
        ({}, (None, None, None)),
    ],
)  # fmt: skip
def test_tokens_of_all_versions(usage: dict[str, Any], expected: tuple[Any, ...]) -> None:
    row = {name: value for name, value in GENERATION.items() if name != "usageDetails"}
    made = event_of({**row, **usage})
    assert (made.get("input_tokens"), made.get("output_tokens"), made.get("usage")) == expected
    if usage == {"totalTokens": 30}:
        assert made["total_tokens"] == 30


@pytest.mark.parametrize(
    ("costs", "expected"),
    [
        ({"totalCost": "0.5"}, 0.5),
        ({"calculatedTotalCost": 0.5}, 0.5),
        ({"costDetails": {"input": 0.25, "output": 0.25}}, 0.5),
        ({"totalCost": 0}, None),
        ({"totalCost": 0, "costDetails": {"total": 0}}, 0),
        ({}, None),
    ],
)
def test_costs_of_all_versions(costs: dict[str, Any], expected: float | None) -> None:
    row = {name: value for name, value in GENERATION.items() if "ost" not in name}
    assert event_of({**row, **costs}).get("cost_usd") == expected


def test_a_failure_has_the_kind_of_its_error_and_not_its_message() -> None:
    assert (
        event_of({**GENERATION, "level": "ERROR", "statusMessage": "RateLimitError: secret"})["error_type"]
        == "RateLimitError"
    )
    assert event_of({**GENERATION, "level": "ERROR", "statusMessage": "the secret of ana"})["error_type"] == "error"
    assert "error_type" not in event_of({**GENERATION, "level": "WARNING", "statusMessage": "slow"})
    assert "secret" not in json.dumps(event_of(GENERATION))


def test_what_nobody_said_is_unknown_and_the_table_of_earlier_versions_has_no_types() -> None:
    bare = {"id": "x", "traceId": "t", "startTime": AT.isoformat(), "model": "gpt-4o"}
    made = event_of(bare)
    assert [made[name] for name in ("user_id", "team", "service", "provider")] == ["unknown"] * 4
    with pytest.raises(NoCall, match="row without a type"):
        event_of({"id": "t", "timestamp": AT.isoformat(), "name": "trace"})


def test_files_in_a_folder_of_that_name_are_of_that_format(
    tmp_path: Path, postgres: psycopg.Connection, settings: Settings
) -> None:
    """Exports to a store have traces and scores beside the observations."""
    for name, rows in {
        "observations_v2": [IN_A_STORE],
        "traces": [{"id": "trace-1", "timestamp": AT.isoformat(), "name": "chat", "project_id": "clx1"}],
        "scores": [{"id": "s-1", "timestamp": AT.isoformat(), "trace_id": "trace-1", "name": "good", "value": 1}],
    }.items():
        (tmp_path / "langfuse" / "clx1" / name).mkdir(parents=True)
        (tmp_path / "langfuse" / "clx1" / name / "1.jsonl").write_bytes(as_lines(rows))
    landing = Landing(str(tmp_path))
    reports = [ingest_file(postgres, landing, file.address, settings=settings) for file in landing.waiting()]
    assert [(report.outcome, report.inserted, report.passed, report.rejected) for report in reports] == [
        ("stored", 1, 0, 0),
        ("stored", 0, 1, 0),
        ("stored", 0, 1, 0),
    ]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.sampled_from(sorted({*GENERATION, *IN_A_STORE, "usage", "promptTokens"})), JSON, max_size=6))
def test_any_observation_becomes_an_event_or_a_reason(changes: dict[str, Any]) -> None:
    with suppress(Malformed, NoCall):
        made = json.dumps(event_of({**GENERATION, **changes}), allow_nan=False).encode(errors="replace")
        with suppress(Malformed):
            parse_event(made, EventWindow.around(NOW, load_settings()))
