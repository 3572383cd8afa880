"""The sensor of first looks."""

from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import pytest

from usage_pipeline.defs.sensors import starts


def tick(definitions: dg.Definitions, instance: dg.DagsterInstance, cursor: str | None) -> Any:
    context = dg.build_sensor_context(instance=instance, definitions=definitions, cursor=cursor)
    return definitions.resolve_sensor_def("first_looks").evaluate_tick(context)


@pytest.mark.parametrize(
    ("minutes_ago", "asks"), [(None, True), (1, False), (14, False), (16, True), (600, True)], ids=str
)
def test_it_looks_after_a_start_and_after_a_pause(
    definitions: dg.Definitions, instance: dg.DagsterInstance, minutes_ago: int | None, asks: bool
) -> None:
    before = None
    if minutes_ago is not None:
        before = f"{(datetime.now(UTC) - timedelta(minutes=minutes_ago)).timestamp():.0f}"
    found = tick(definitions, instance, before)
    asked = {request.job_name for request in found.run_requests or []}
    assert asked == ({job.name for job in starts.JOBS} if asks else set())
    assert all("start" in request.tags["usage_pipeline/reason"] for request in found.run_requests or [])
    assert not tick(definitions, instance, found.cursor).run_requests


def test_what_it_asks_for_runs_on_an_empty_installation_and_is_green(
    definitions: dg.Definitions, instance: dg.DagsterInstance
) -> None:
    quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    for request in tick(definitions, instance, None).run_requests:
        job = definitions.resolve_job_def(request.job_name)
        result = job.execute_in_process(instance=instance, run_config=quiet)
        assert result.success
        for one in result.get_asset_check_evaluations():
            assert one.passed, f"{one.asset_key.to_user_string()}: {one.check_name}"
            assert one.metadata["mismatches"].value == 0
