"""The sensor of missed partitions: it asks for partitions that were not made while the daemon or a server was away.

A sensor is needed because Dagster catches up with only the last missed tick of a schedule.
"""

from collections import defaultdict
from datetime import UTC, datetime, timedelta

import dagster as dg

from usage_pipeline.defs.assets.issues import ISSUE_STATS_KEY
from usage_pipeline.defs.assets.merchants import MERCHANT_USAGE_KEY
from usage_pipeline.defs.assets.rankings import is_of_issues, ranking_key
from usage_pipeline.defs.assets.reports import REPORT_GRAINS, report_key
from usage_pipeline.defs.assets.windows import window_key
from usage_pipeline.defs.checks.freshness import Partitioned, missed, partitioned_assets
from usage_pipeline.defs.jobs import (
    because,
    daily_tables,
    issue_stats,
    merchant_usage,
    one_at_a_time,
    ranking_jobs,
    report_jobs,
    window_jobs,
)
from usage_pipeline.defs.partitions.calendar import report_partitions
from usage_pipeline.defs.sensors.turns import asked, take_turn
from usage_pipeline.rollups.calendar import GRAINS, Grain
from usage_pipeline.rollups.due_windows import closed_windows
from usage_pipeline.rollups.rankings import RANKINGS
from usage_pipeline.settings import Settings

# As long as counters live in Redis; whoever was away for longer backfills by hand.
_LOOK_BACK: dict[Grain, int] = {"hour": 24, "day": 7, "week": 1, "month": 1}
_UNTIL_REPORTS_ARE_MADE = timedelta(hours=8)
_INTERVAL_SECONDS = 290
_JOBS = {
    MERCHANT_USAGE_KEY: merchant_usage,
    ISSUE_STATS_KEY: issue_stats,
    **{window_key(grain): window_jobs[grain] for grain in GRAINS},
    **{report_key(grain): report_jobs[grain] for grain in REPORT_GRAINS},
    **{ranking_key(one): ranking_jobs[is_of_issues(one)] for one in RANKINGS},
}


def missed_partitions_sensor(settings: Settings) -> dg.SensorDefinition:
    """Looks every five minutes. If a run did not help, it asks for the partition again later, ever more rarely."""
    reports = report_partitions(settings)
    assets = [
        *(
            one
            for one in partitioned_assets(settings)
            if one.key != MERCHANT_USAGE_KEY or settings.enable_usage_aggregation
        ),
        # They have no check of freshness: until the first month ends, there is none to be made.
        *(Partitioned(report_key(grain), grain, reports[grain], _UNTIL_REPORTS_ARE_MADE) for grain in REPORT_GRAINS),
    ]

    @dg.sensor(
        name="missed_partitions",
        jobs=[
            daily_tables,
            merchant_usage,
            issue_stats,
            *window_jobs.values(),
            *report_jobs.values(),
            *ranking_jobs.values(),
        ],
        minimum_interval_seconds=_INTERVAL_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Makes past hours, days, weeks and months, and their reports, that no run has made since they ended.",
    )
    def missed_partitions(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        now = datetime.now(UTC)
        wanted: dict[tuple[str, str], list[dg.AssetKey]] = defaultdict(list)
        for one in assets:
            for partition in _missed_of(context.instance, one, now, settings):
                wanted[_JOBS.get(one.key, daily_tables).name, partition].append(one.key)
        ordered = sorted(wanted, key=lambda one: one[::-1])
        by_name = {f"{job}:{partition}": (job, partition) for job, partition in ordered}
        turn = take_turn(dict.fromkeys(by_name, ""), context.cursor, now)
        requests = []
        for name in turn.ids:
            job, partition = by_name[name]
            requests.append(
                dg.RunRequest(
                    # The hour is in the run key, so that one whose run failed can be tried again.
                    run_key=f"missed:{name}:{now:%Y%m%d%H}",
                    job_name=job,
                    partition_key=partition,
                    asset_selection=sorted(wanted[job, partition]),
                    tags=one_at_a_time(job, partition) | because("no run has made it since it ended"),
                )
            )
        return asked(context, turn, requests, "No past partition was missed.")

    return missed_partitions


def _missed_of(instance: dg.DagsterInstance, one: Partitioned, now: datetime, settings: Settings) -> list[str]:
    windows = closed_windows(one.grain, now - one.grace, _LOOK_BACK[one.grain], settings.timezone)
    return list(missed(instance, one, windows))
