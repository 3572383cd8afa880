"""The sensor of late windows: it asks for a run for each window that changed after it ended."""

from contextlib import closing
from datetime import UTC, datetime

import dagster as dg

from usage_pipeline.defs.assets.windows import window_partition
from usage_pipeline.defs.jobs import one_at_a_time, storage_lifecycle, window_jobs
from usage_pipeline.defs.partitions.calendar import window_partitions
from usage_pipeline.rollups.late_windows import stale_windows
from usage_pipeline.rollups.window_tables import WINDOW_TABLES
from usage_pipeline.settings import Settings
from usage_pipeline.storage.postgres import PostgresUnavailable, connect

_RUNS_PER_TICK = 25


def late_windows_sensor(settings: Settings, status: dg.DefaultSensorStatus) -> dg.SensorDefinition:
    """The sensor `late_windows`. If the events of a window are archived, a lifecycle run reads them back first."""
    partitions = window_partitions(settings)

    @dg.sensor(
        name="late_windows",
        jobs=[*window_jobs.values(), storage_lifecycle],
        minimum_interval_seconds=30,
        default_status=status,
        description="Makes past hours, days, weeks and months again when their events changed, oldest first.",
    )
    def late_windows(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        now = datetime.now(UTC)
        try:
            with closing(connect(settings)) as connection:
                stale = stale_windows(connection, time_zone=settings.timezone, now=now)
        except PostgresUnavailable as problem:
            return dg.SkipReason(str(problem))
        # The hour is in the run keys, so that a window whose run failed is tried again, and not more than once an hour.
        hour = f"{now:%Y%m%d%H}"
        requests = [
            dg.RunRequest(
                job_name=WINDOW_TABLES[one.window.grain].name,
                run_key=f"{one.window.grain}:{key}:{one.touched_at.timestamp():.6f}:{hour}",
                partition_key=key,
                tags=one_at_a_time(WINDOW_TABLES[one.window.grain].name, key),
            )
            for one in stale
            if not one.is_archived
            if (key := window_partition(one.window.grain, partitions[one.window.grain], one.window)) is not None
        ][:_RUNS_PER_TICK]
        if any(one.is_archived for one in stale):
            requests.append(dg.RunRequest(job_name=storage_lifecycle.name, run_key=f"restore:{hour}"))
        if not requests:
            return dg.SkipReason("No past hour, day, week or month has changed.")
        return dg.SensorResult(run_requests=requests)

    return late_windows
