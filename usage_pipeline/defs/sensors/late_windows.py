"""The sensor of late windows: it asks for a run for each window that changed after it ended."""

from contextlib import closing
from datetime import UTC, datetime

import dagster as dg

from usage_pipeline.defs.assets.windows import window_partition
from usage_pipeline.defs.jobs import because, one_at_a_time, storage_lifecycle, window_jobs
from usage_pipeline.defs.partitions.calendar import window_partitions
from usage_pipeline.defs.sensors.turns import asked, take_turn
from usage_pipeline.rollups.late_windows import stale_windows
from usage_pipeline.rollups.window_tables import WINDOW_TABLES
from usage_pipeline.settings import Settings
from usage_pipeline.storage.postgres import PostgresUnavailable, connect
from usage_pipeline.texts import counted


def late_windows_sensor(settings: Settings) -> dg.SensorDefinition:
    """The sensor `late_windows`. If the events of a window are archived, a lifecycle run reads them back first."""
    partitions = window_partitions(settings)

    @dg.sensor(
        name="late_windows",
        jobs=[*window_jobs.values(), storage_lifecycle],
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Makes past hours, days, weeks and months again when their events changed, oldest first.",
    )
    def late_windows(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        now = datetime.now(UTC)
        try:
            with closing(connect(settings)) as connection:
                stale = stale_windows(connection, time_zone=settings.timezone, now=now)
        except PostgresUnavailable as problem:
            return dg.SkipReason(str(problem))
        # The hour is in the run keys, so that a window whose run failed can be tried again.
        hour = f"{now:%Y%m%d%H}"
        wanted = {
            f"{one.window.grain}:{key}": one
            for one in stale
            if not one.is_archived
            if (key := window_partition(one.window.grain, partitions[one.window.grain], one.window)) is not None
        }
        versions = {name: f"{one.touched_at.timestamp():.6f}" for name, one in wanted.items()}
        turn = take_turn(versions, context.cursor, now)
        requests = []
        for name in turn.ids:
            job, key = WINDOW_TABLES[wanted[name].window.grain].name, name.partition(":")[2]
            run_key = f"{name}:{versions[name]}:{hour}"
            why = because(f"its source changed at {wanted[name].touched_at:%Y-%m-%d %H:%M:%S}Z, after it was made")
            tags = one_at_a_time(job, key) | why
            requests.append(dg.RunRequest(job_name=job, run_key=run_key, partition_key=key, tags=tags))
        if archived := [one.window for one in stale if one.is_archived]:
            why = because(f"events of {counted(len(archived), 'late window')} must be read back from the archive")
            requests.append(dg.RunRequest(job_name=storage_lifecycle.name, run_key=f"restore:{hour}", tags=why))
        return asked(context, turn, requests, "No past hour, day, week or month has changed.")

    return late_windows
