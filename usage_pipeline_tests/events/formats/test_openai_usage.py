"""OpenAI's usage: pages of its API and the export of its dashboard, in the names that both have."""

import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from usage_pipeline.events.formats.openai_usage import NoRequest, NotOver, event_of, results_in
from usage_pipeline.settings import Settings
from usage_pipeline.values import Malformed
from usage_pipeline_tests.events.files.test_kinds import load
from usage_pipeline_tests.events.files.writing import as_csv, as_lines
from usage_pipeline_tests.rigs.events import NOW

DAY = 86_400
START = int((NOW.astimezone(UTC) - timedelta(days=3)).replace(hour=0, minute=0, second=0).timestamp())
# Members of `organization.usage.completions.result` in openai 3.57.0; the header of the dashboard's export has them, too.
RESULT = {
    "object": "organization.usage.completions.result",
    "input_tokens": 59_200,
    "output_tokens": 10_646,
    "num_model_requests": 10,
    "input_cached_tokens": 5_760,
    "input_audio_tokens": 0,
    "output_audio_tokens": 0,
    "project_id": "proj_1",
    "user_id": "user-1",
    "api_key_id": "key_1",
    "model": "gpt-4o-2024-08-06",
    "batch": False,
    "service_tier": "default",
}
CSV_HEADER = (
    *("start_time", "end_time", "start_time_iso", "end_time_iso", "project_id", "num_model_requests", "user_id"),
    *("api_key_id", "model", "batch", "service_tier", "input_tokens", "output_tokens", "input_cached_tokens"),
    *("input_uncached_tokens", "input_text_tokens", "output_text_tokens", "input_cached_text_tokens"),
    *("input_audio_tokens", "input_cached_audio_tokens", "output_audio_tokens", "input_image_tokens"),
    *("input_cached_image_tokens", "output_image_tokens"),
)
STORED = """
    select event_time, user_id, team, service, provider, model, input_tokens, output_tokens, cache_read_tokens, service_tier,
           api_key_id, extra
    from analytics.usage_events where source = 'openai-usage' order by event_time, model, input_tokens
"""


def result(**changes: Any) -> dict[str, Any]:
    return {**RESULT, **changes}


def bucket(*results: dict[str, Any], start: int = START, seconds: int = DAY) -> dict[str, Any]:
    return {"object": "bucket", "start_time": start, "end_time": start + seconds, "results": list(results)}


def page(*buckets: dict[str, Any]) -> bytes:
    return json.dumps({"object": "page", "data": buckets, "has_more": False, "next_page": None}, indent=2).encode()


def exported(*rows: dict[str, Any], start: int = START) -> bytes:
    """As the dashboard writes it: counts with a fraction, booleans in capitals, a row without counts for an empty bucket."""
    times = {
        "start_time": start,
        "end_time": start + DAY,
        **{
            f"{name}_time_iso": datetime.fromtimestamp(at, UTC).isoformat()
            for name, at in (("start", start), ("end", start + DAY))
        },
    }
    cells = [
        {
            name: float(cell)
            if name.endswith(("tokens", "requests"))
            else str(cell).upper()
            if name == "batch"
            else cell
            for name, cell in ({**dict.fromkeys(CSV_HEADER, ""), **row}).items()
            if name in CSV_HEADER
        }
        if row
        else dict.fromkeys(CSV_HEADER, "")
        for row in (
            {name: one for name, one in {**dict.fromkeys(CSV_HEADER, 0), **row}.items() if name in CSV_HEADER}
            if row
            else {}
            for row in rows
        )
    ]
    return as_csv([{**row, **times} for row in cells])


def stored(postgres: psycopg.Connection) -> list[tuple[Any, ...]]:
    return postgres.execute(STORED).fetchall()


EXPECTED = (
    datetime.fromtimestamp(START, UTC),
    *("user-1", "proj_1", "unknown", "openai", "gpt-4o-2024-08-06", 59_200, 10_646, 5_760, None, "key_1"),
    {"num_model_requests": 10, "bucket_end": datetime.fromtimestamp(START + DAY, UTC).isoformat()},
)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("page.json", page(bucket(RESULT), bucket(start=START + DAY))),
        ("pages.jsonl", as_lines([bucket(RESULT), bucket(start=START + DAY)])),
        ("bucket.json", json.dumps(bucket(RESULT)).encode()),
        ("export.csv", exported(RESULT, {})),
    ],
)
def test_a_sum_becomes_one_event_that_says_of_how_many_requests(
    name: str, content: bytes, tmp_path: Path, postgres: psycopg.Connection, settings: Settings
) -> None:
    (tmp_path / name).write_bytes(content)
    done = load(postgres, settings, tmp_path / name)
    assert (done.row_format, done.reason, done.rejections) == ("openai-usage", None, [])
    assert stored(postgres) == [EXPECTED]
    # The same sums from the other one of the two are the same events.
    (tmp_path / "other.csv").write_bytes(exported(RESULT))
    (tmp_path / "other.json").write_bytes(page(bucket(RESULT)))
    for other in ("other.csv", "other.json"):
        again = load(postgres, settings, tmp_path / other)
        assert (again.inserted, again.duplicates, again.conflicts) == (0, 1, 0)


def test_two_rows_of_one_grouping_both_count(tmp_path: Path, postgres: psycopg.Connection, settings: Settings) -> None:
    """As exports have them: they differ in something that is not told."""
    (tmp_path / "a.csv").write_bytes(exported(result(), result(input_tokens=5_783, num_model_requests=1)))
    assert load(postgres, settings, tmp_path / "a.csv").inserted == 2
    assert [row[6] for row in stored(postgres)] == [5_783, 59_200]
    assert load(postgres, settings, tmp_path / "a.csv").duplicates == 2


def test_a_bucket_that_grew_is_a_conflict_and_one_that_still_grows_is_passed_over(
    tmp_path: Path, postgres: psycopg.Connection, settings: Settings
) -> None:
    now = int(datetime.now(UTC).timestamp())
    path = tmp_path / "a.json"
    path.write_bytes(page(bucket(RESULT), bucket(RESULT, start=now - 60, seconds=3_600)))
    done = load(postgres, settings, path)
    assert (done.inserted, done.passed) == (1, 1)
    assert done.notes == ["1 sum is of a time that is not over, and still grows: load it again afterwards"]
    path.write_bytes(page(bucket(result(input_tokens=60_000))))
    done = load(postgres, settings, path)
    assert (done.inserted, done.conflicts) == (0, 1)
    assert [row[6] for row in stored(postgres)] == [59_200], "the first one stays until somebody decides"


def test_parts_become_units_and_batch_a_tier(tmp_path: Path, postgres: psycopg.Connection, settings: Settings) -> None:
    parts = result(
        batch=True,
        input_audio_tokens=100,
        input_cached_audio_tokens=40,
        input_image_tokens=30,
        input_cached_image_tokens=0,
        input_cache_write_tokens=70,
        output_audio_tokens=50,
    )
    path = tmp_path / "a.json"
    path.write_bytes(page(bucket(parts)))
    assert load(postgres, settings, path).rejections == []
    columns = "service_tier, cache_read_tokens, cache_write_tokens, input_audio_tokens, input_image_tokens, output_audio_tokens"
    [row] = postgres.execute(f"select {columns} from analytics.usage_events").fetchall()
    assert row == ("batch", 5_760, 70, 140, 30, 50)


def test_other_kinds_of_usage(tmp_path: Path, postgres: psycopg.Connection, settings: Settings) -> None:
    def other(kind: str, **counts: Any) -> dict[str, Any]:
        named = {"object": f"organization.usage.{kind}.result", "project_id": None, "num_model_requests": 1}
        return {**named, "model": f"model-of-{kind}", **counts}

    path = tmp_path / "a.json"
    path.write_bytes(
        page(
            bucket(
                other("embeddings", input_tokens=7),
                other("audio_speeches", characters=11),
                other("audio_transcriptions", seconds=13),
                other("images", images=2),
                {"object": "organization.usage.vector_stores.result", "usage_bytes": 1_024, "project_id": "proj_1"},
                {"object": "organization.costs.result", "amount": {"value": 0.06, "currency": "usd"}},
            )
        )
    )
    done = load(postgres, settings, path)
    assert (done.inserted, done.passed, done.rejections) == (4, 2, [])
    assert done.notes == ["2 rows are no request to a model: 1 vector_stores, 1 costs"]
    units = dict(postgres.execute("select model, other_units from analytics.usage_events").fetchall())
    assert units["model-of-audio_speeches"] == {"input_characters": 11}
    assert units["model-of-audio_transcriptions"] == {"audio_seconds": 13}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model": None}, "model: expected usage grouped by model (group_by=model), came a sum over all of them"),
        ({"input_tokens": "many"}, "input_tokens: expected a count, came 'many'"),
        ({"num_model_requests": None}, "num_model_requests: expected a count, came none"),
        ({"input_cached_tokens": 60_000}, "cache_read_tokens"),
    ],
)
def test_what_cannot_be_counted_is_told(
    changes: dict[str, Any], reason: str, tmp_path: Path, postgres: psycopg.Connection, settings: Settings
) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(page(bucket(result(**changes), result(project_id="proj_2"))))
    done = load(postgres, settings, path)
    assert (done.inserted, done.rejected) == (1, 1)
    assert reason in done.rejections[0][1]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.sampled_from(sorted({*CSV_HEADER, "results", "object", "seconds"})), JSON, max_size=6))
def test_any_sum_becomes_an_event_or_a_reason(changes: dict[str, Any]) -> None:
    with suppress(Malformed, NotOver, NoRequest):
        for found in results_in({**RESULT, "start_time": START, "end_time": START + DAY, **changes}):
            json.dumps(event_of(found, datetime.now(UTC)), allow_nan=False)
