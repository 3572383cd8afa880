"""What ENABLE_JOB_SCHEDULER=false makes of schedules and sensors: they are shown, and do nothing, also when one is turned on.

Dagster keeps what was clicked in its UI, so that a status in the code would not hold.
"""

from collections.abc import Iterable

import dagster as dg

SAID = "ENABLE_JOB_SCHEDULER is false, so nothing runs by itself. Set it to true to turn this on."


def schedules_off(schedules: Iterable[dg.ScheduleDefinition]) -> list[dg.ScheduleDefinition]:
    """The schedules, stopped, with ticks that ask for nothing and say why."""
    return [
        dg.ScheduleDefinition(
            name=one.name,
            job_name=one.job_name,
            cron_schedule=one.cron_schedule,
            execution_timezone=one.execution_timezone,
            description=one.description,
            execution_fn=lambda _: dg.SkipReason(SAID),
        )
        for one in schedules
    ]


def sensors_off(sensors: Iterable[dg.SensorDefinition]) -> list[dg.SensorDefinition]:
    """The sensors, stopped, with ticks that do nothing and say why."""
    return [
        dg.SensorDefinition(
            name=one.name,
            minimum_interval_seconds=one.minimum_interval_seconds,
            description=one.description,
            evaluation_fn=lambda _: dg.SkipReason(SAID),
        )
        for one in sensors
    ]
