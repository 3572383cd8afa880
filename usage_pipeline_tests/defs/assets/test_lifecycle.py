"""The asset `ops/storage_lifecycle`: what a run says of itself."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg

from usage_pipeline.definitions import build_definitions
from usage_pipeline.events.ingest.batches import EVENTS, ingest
from usage_pipeline.settings import Settings
from usage_pipeline.storage.archives.manifest import archives
from usage_pipeline_tests.rigs.events import NOW, as_items, event

QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


def run(settings: Settings, instance: dg.DagsterInstance) -> tuple[bool, dict[str, Any]]:
    """Whether the job succeeded, and the metadata it left."""
    job = build_definitions({"settings": settings}).resolve_job_def("storage_lifecycle")
    result = job.execute_in_process(instance=instance, run_config=QUIET, raise_on_error=False)
    if result.success:
        [event] = result.get_asset_materialization_events()
        return True, {name: value.value for name, value in event.materialization.metadata.items()}
    [failure] = [event for event in result.all_events if event.is_step_failure]
    return False, {name: value.value for name, value in failure.step_failure_data.user_failure_data.metadata.items()}


def test_a_run_says_its_strategy_and_what_it_did_and_what_waits(
    settings: Settings, instance: dg.DagsterInstance, postgres: psycopg.Connection, tmp_path: Path
) -> None:
    for days in (10, 12):
        items = as_items(event(event_time=(NOW - timedelta(days=days)).isoformat()))
        ingest(postgres, EVENTS, items, source="test", settings=settings)
    postgres.execute("delete from ops.touched_windows where window_start < now() - interval '11 days'")
    is_success, found = run(settings, instance)
    assert is_success
    assert found["strategy"] == "native partitions"
    assert "ARCHIVE_URL is not set" in found["archive"]
    assert found["created"] > 0
    archiving = settings.model_copy(update={"archive_url": str(tmp_path)})
    is_success, found = run(archiving, instance)
    assert is_success
    assert (found["archived"], found["archived_rows"], found["waiting"]) == (1, 1, 1)
    assert found["bytes_before"] > found["bytes_after"] > 0
    assert "is not rolled up" in str(found["waiting_chunks"])
    assert "analytics.usage_events_" in str(found["packed_chunks"])


def test_a_damaged_file_fails_the_run_with_its_metadata(
    settings: Settings, instance: dg.DagsterInstance, postgres: psycopg.Connection, tmp_path: Path
) -> None:
    archiving = settings.model_copy(update={"archive_url": str(tmp_path)})
    at = (NOW - timedelta(days=10)).isoformat()
    ingest(postgres, EVENTS, as_items(event(event_time=at)), source="test", settings=settings)
    postgres.execute("delete from ops.touched_windows")
    assert run(archiving, instance)[0]
    [archive] = archives(postgres)
    (tmp_path / archive.address).write_bytes(b"")
    ingest(postgres, EVENTS, as_items(event(event_time=at)), source="test", settings=settings)
    is_success, found = run(archiving, instance)
    assert not is_success
    assert found["problems"] == 1


def test_it_runs_every_day_in_the_usage_time_zone() -> None:
    from usage_pipeline.settings import load_settings

    repository = build_definitions({"settings": load_settings(usage_timezone="Asia/Kolkata")}).get_repository_def()
    [schedule] = [each for each in repository.schedule_defs if each.name == "storage_lifecycle_daily"]
    assert schedule.execution_timezone == "Asia/Kolkata"
    assert schedule.cron_schedule == "30 4 * * *"
