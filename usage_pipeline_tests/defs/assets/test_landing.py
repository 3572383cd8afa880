"""Landed files through Dagster: the sensor's looks and requests, and the asset's run."""

import json
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg
import pytest
from pydantic import SecretStr

from usage_pipeline.definitions import build_definitions
from usage_pipeline.defs.sensors import landed_files as module
from usage_pipeline.settings import Settings
from usage_pipeline_tests.defs.check_results import problems
from usage_pipeline_tests.rigs.events import event

KEY = dg.AssetKey(["ops", "landed_files"])


@pytest.fixture
def there(settings: Settings, tmp_path: Path) -> dg.Definitions:
    return build_definitions({"settings": settings.model_copy(update={"landing_url": str(tmp_path)})})


def look(definitions: dg.Definitions, instance: dg.DagsterInstance, cursor: str | None = None) -> dg.SensorResult:
    settings = definitions.get_repository_def().get_top_level_resources()["settings"]
    context = dg.build_sensor_context(
        instance=instance, cursor=cursor, definitions=definitions, resources={"settings": settings}
    )
    result = definitions.resolve_sensor_def("landed_files")(context)
    return result if isinstance(result, dg.SensorResult) else dg.SensorResult(skip_reason=result)


def addresses(result: dg.SensorResult) -> list[list[str]]:
    return [request.run_config["ops"]["ops__landed_files"]["config"]["addresses"] for request in result.run_requests]


def test_a_file_is_asked_for_once_two_looks_find_it_the_same(
    there: dg.Definitions, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    (tmp_path / "whole.jsonl").write_bytes(b"{}\n")
    (tmp_path / "growing.jsonl").write_bytes(b"{}\n")
    first = look(there, instance)
    assert first.run_requests == []
    (tmp_path / "growing.jsonl").write_bytes(b"{}\n{}\n")
    second = look(there, instance, first.cursor)
    assert addresses(second) == [["whole.jsonl"]]
    third = look(there, instance, second.cursor)
    assert addresses(third) == [["growing.jsonl"]]
    fourth = look(there, instance, third.cursor)
    assert fourth.run_requests == []
    assert "2 files wait" in str(fourth.skip_reason)


def test_a_file_that_still_waits_is_asked_for_again_with_another_run_key(
    there: dg.Definitions, instance: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"{}\n")
    asked = look(there, instance, look(there, instance).cursor)
    state = json.loads(str(asked.cursor))
    state["asked"] = {name: at - 600 for name, at in state["asked"].items()}
    now = module.time.time()
    monkeypatch.setattr(module.time, "time", lambda: now + 600)
    again = look(there, instance, json.dumps(state))
    assert addresses(again) == [["a.jsonl"]]
    assert again.run_requests[0].run_key != asked.run_requests[0].run_key


def test_a_run_takes_a_bounded_number_of_files_and_the_cursor_forgets_what_is_gone(
    there: dg.Definitions, instance: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_FILES_PER_RUN", 2)
    for name in "abc":
        (tmp_path / f"{name}.jsonl").write_bytes(b"{}\n")
    second = look(there, instance, look(there, instance).cursor)
    third = look(there, instance, second.cursor)
    assert addresses(second) + addresses(third) == [["a.jsonl", "b.jsonl"], ["c.jsonl"]]
    for path in tmp_path.iterdir():
        path.unlink()
    assert json.loads(str(look(there, instance, third.cursor).cursor)) == {"seen": {}, "asked": {}}


def test_without_a_folder_the_sensor_is_off_and_says_why(
    definitions: dg.Definitions, instance: dg.DagsterInstance
) -> None:
    assert definitions.resolve_sensor_def("landed_files").default_status == dg.DefaultSensorStatus.STOPPED
    assert "LANDING_URL is not set" in str(look(definitions, instance).skip_reason)


def test_a_folder_that_is_not_there_has_no_files(
    there: dg.Definitions, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    tmp_path.rmdir()
    assert "0 files wait" in str(look(there, instance).skip_reason)
    tmp_path.mkdir()


def test_the_run_that_the_sensor_asks_for_reads_the_files(
    there: dg.Definitions, instance: dg.DagsterInstance, tmp_path: Path, postgres: psycopg.Connection
) -> None:
    (tmp_path / "a.jsonl").write_bytes(json.dumps(event()).encode() + b"\n")
    (tmp_path / "b.json").write_bytes(b"nonsense")
    [request] = look(there, instance, look(there, instance).cursor).run_requests
    assert request.tags["usage_pipeline/landing"] == "1"
    job = there.resolve_implicit_global_asset_job_def()
    result = job.execute_in_process(
        instance=instance, asset_selection=[KEY], run_config=request.run_config, tags=request.tags
    )
    [event_of] = result.asset_materializations_for_node("ops__landed_files")
    counts: dict[str, Any] = {name: value.value for name, value in event_of.metadata.items()}
    assert (counts["files_stored"], counts["files_broken"], counts["inserted"]) == (1, 1, 1)
    assert [record.data["outcome"] for record in counts["files"].records] == ["stored", "broken"]
    assert postgres.execute("select count(*) from analytics.usage_events").fetchall() == [(1,)]


def test_what_is_not_read_is_in_the_message_of_the_sensor_and_in_the_metadata_of_the_asset(
    there: dg.Definitions, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    (tmp_path / "2026").mkdir()
    for name in ("2026/u.txt", "u.tsv", "u.zst"):
        (tmp_path / name).write_bytes(b"{}\n")
    said = str(look(there, instance).skip_reason)
    assert "0 files wait" in said
    assert "3 files are of no kind that is read, for example u.tsv, u.zst, 2026/u.txt" in said
    job = there.resolve_implicit_global_asset_job_def()
    result = job.execute_in_process(instance=instance, asset_selection=[KEY])
    [event_of] = result.asset_materializations_for_node("ops__landed_files")
    assert event_of.metadata["files_not_read"].value == 3
    not_read = event_of.metadata["not_read"]
    assert isinstance(not_read, dg.TableMetadataValue)
    assert [record.data["file"] for record in not_read.records] == ["u.tsv", "u.zst", "2026/u.txt"]
    assert event_of.metadata["files_not_moved"].value == 0
    checked = there.resolve_job_def("counter_checks").execute_in_process(instance=instance)
    [evaluation] = [one for one in checked.get_asset_check_evaluations() if one.check_name == "folder_is_read"]
    assert not evaluation.passed
    assert "2026/u.txt" in str(problems(evaluation))


def test_without_postgresql_the_sensor_waits(settings: Settings, instance: dg.DagsterInstance, tmp_path: Path) -> None:
    away = {"landing_url": str(tmp_path), "database_url": SecretStr("postgresql://nobody@127.0.0.1:1/none")}
    there = build_definitions({"settings": settings.model_copy(update=away)})
    (tmp_path / "a.jsonl").write_bytes(b"{}\n")
    assert "PostgreSQL does not answer" in str(look(there, instance).skip_reason)
