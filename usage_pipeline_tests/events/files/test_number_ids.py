"""Ids that became numbers on their way: read as they were where that is sure, and refused where digits were lost."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import psycopg
import pytest

from usage_pipeline.settings import Settings
from usage_pipeline_tests.events.files.test_kinds import load
from usage_pipeline_tests.events.files.writing import as_csv, as_parquet
from usage_pipeline_tests.rigs.events import event

IDS = ("event_id", "user_id", "team", "api_key_id")
STORED = "select external_id, user_id, team, api_key_id from analytics.usage_events order by 1"


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_ids_that_pandas_made_floats_are_the_same_ids(
    ending: str, tmp_path: Path, postgres: psycopg.Connection, settings: Settings
) -> None:
    rows = [event(**dict.fromkeys(IDS, 5287174 + number), model="4.0") for number in range(3)]
    (tmp_path / "a.csv").write_text(pd.DataFrame(rows).to_csv(index=False))
    assert load(postgres, settings, tmp_path / "a.csv").inserted == 3
    stored = postgres.execute(STORED).fetchall()
    assert stored[0] == ("5287174",) * 4
    # One row with gaps makes all of them floats.
    frame = pd.DataFrame([*rows, event(team="", event_time="", **{name: None for name in IDS if name != "team"})])
    path = tmp_path / f"b{ending}"
    frame["team"] = pd.to_numeric(frame["team"])
    path.write_bytes(frame.to_csv(index=False).encode() if ending == ".csv" else as_parquet(frame))
    done = load(postgres, settings, path)
    assert (done.inserted, done.duplicates, done.conflicts, done.rejected) == (0, 3, 0, 1)
    assert postgres.execute(STORED).fetchall() == stored
    assert postgres.execute("select distinct model from analytics.usage_events").fetchall() == [("4.0",)]


@pytest.mark.parametrize("name", IDS)
@pytest.mark.parametrize("value", [2.0**53, 2.0**53 + 2, 1e300, 1.5, float("inf"), float("-inf")])
def test_ids_that_lost_digits_are_refused(
    name: str, value: float, tmp_path: Path, postgres: psycopg.Connection, settings: Settings
) -> None:
    rows: list[dict[str, Any]] = [event(**{name: value}), event(**{name: 7.0})]
    for ending, content in ((".parquet", as_parquet(rows)), (".csv", as_csv(rows))):
        path = tmp_path / f"a{ending}"
        path.write_bytes(content)
        done = load(postgres, settings, path)
        assert done.inserted + done.duplicates + done.conflicts == 1 + (value == 1.5 and ending == ".csv")
        if not (value == 1.5 and ending == ".csv"):
            assert done.rejections[0][1].startswith(f"{name}: expected an id"), done.rejections


def test_an_infinite_count_is_refused(tmp_path: Path, postgres: psycopg.Connection, settings: Settings) -> None:
    (tmp_path / "a.parquet").write_bytes(as_parquet([event(output_tokens=float("inf")), event(output_tokens=1.0)]))
    done = load(postgres, settings, tmp_path / "a.parquet")
    assert (done.inserted, done.rejected) == (1, 1)
    assert "output_tokens" in done.rejections[0][1]


def spend_log(number: float | int | None) -> dict[str, Any]:
    at = event()["event_time"]
    who = dict.fromkeys(("request_id", "user", "team_id", "organization_id"), number)
    counts = {"spend": 0.1, "prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    return {"startTime": at, "endTime": at, "call_type": "acompletion", "model": "4.0", **who, **counts}


def observation(number: float | int | None) -> dict[str, Any]:
    at = event()["event_time"]
    return {"id": number, "userId": number, "traceId": "t", "type": "GENERATION", "startTime": at, "model": "4.0"}


@pytest.mark.parametrize("ending", [".csv", ".parquet", ".jsonl"])
@pytest.mark.parametrize(("row", "others"), [(spend_log, "team, tags->>'organization'"), (observation, "'1', '1'")])
def test_ids_in_exports_of_others_are_the_same_ids(
    row: Callable[[float | int | None], dict[str, Any]],
    others: str,
    ending: str,
    tmp_path: Path,
    postgres: psycopg.Connection,
    settings: Settings,
) -> None:
    path = tmp_path / f"a{ending}"
    # The one without ids makes all of them floats, and is refused itself.
    frame = pd.DataFrame([row(5287174), row(None), row(5287175), row(2.0**53)])
    content = {".csv": frame.to_csv(index=False), ".jsonl": frame.to_json(orient="records", lines=True)}
    path.write_bytes(content[ending].encode() if ending in content else as_parquet(frame))
    done = load(postgres, settings, path)
    assert (done.reason, done.inserted, done.rejected) == (None, 2, 2)
    assert "may have lost digits" in done.rejections[1][1]
    rows = postgres.execute(
        f"select external_id, user_id, model, {others} from analytics.usage_events order by 1"
    ).fetchall()
    for found, number in zip(rows, ("5287174", "5287175"), strict=True):
        assert found == (number, number, "4.0", *((number, number) if row is spend_log else ("1", "1")))
