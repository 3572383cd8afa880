"""The asset `ops/dagster_history`: run on the instance whose storage it prunes, and refused on any other."""

from pathlib import Path

import dagster as dg

from usage_pipeline.definitions import build_definitions
from usage_pipeline.local.servers.both import LocalServers
from usage_pipeline.settings import load_settings
from usage_pipeline_tests.rigs.history import QUIET, open_history


def run_history(url: str, instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    settings = load_settings(dagster_postgres_url=url, run_history_days=30, event_history_days=7)
    job = build_definitions({"settings": settings}).resolve_job_def("history")
    return job.execute_in_process(instance=instance, run_config=QUIET, raise_on_error=False)


def test_what_was_removed_is_in_the_metadata(servers: LocalServers, tmp_path: Path) -> None:
    with open_history(servers, tmp_path / "home") as history:
        old = history.run("days", "2026-01-01")
        logs = tmp_path / "home" / "storage" / old / "compute_logs"
        logs.mkdir(parents=True, exist_ok=True)
        history.run("days", "2026-01-01")
        history.report(5)
        history.age(40)
        result = run_history(history.storage_url, history.instance)
        assert result.success
        [event] = result.get_asset_materialization_events()
        found = {name: value.value for name, value in event.materialization.metadata.items()}
        assert (found["removed_runs"], found["slimmed_runs"], found["is_complete"]) == (1, 1, True)
        assert found["removed_event_rows"] == found["event_rows_before"] - found["event_rows_after"] > 10
        assert found["bytes_before"] > 0 < found["removed_bytes"]
        assert {"ticks_before", "ticks_after", "runs_before", "bytes_after", "dagster/row_count"} <= set(found)
        assert history.instance.get_run_by_id(old) is None
        assert not logs.parent.exists()


def test_the_storage_of_another_instance_is_refused(servers: LocalServers, tmp_path: Path) -> None:
    with open_history(servers, tmp_path / "home") as other, dg.DagsterInstance.ephemeral() as instance:
        result = run_history(other.storage_url, instance)
        [failure] = [event for event in result.all_events if event.is_step_failure]
        assert "expected the storage of this instance" in str(failure.step_failure_data.error)


def test_it_is_pruned_daily() -> None:
    [schedule] = [
        each
        for each in build_definitions({"settings": load_settings()}).get_repository_def().schedule_defs
        if each.name == "history_daily"
    ]
    assert schedule.job_name == "history"
    assert schedule.cron_schedule == "15 5 * * *"
    assert schedule.execution_timezone == "UTC"
