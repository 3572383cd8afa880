"""The sensor of late statistics: it asks for runs for dates of issue statistics and rankings whose source changed since."""

import json
import math
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta

import dagster as dg

from usage_pipeline.defs.assets.issues import ISSUE_STATS_KEY
from usage_pipeline.defs.assets.rankings import is_of_issues, ranking_key
from usage_pipeline.defs.jobs import because, issue_stats, one_at_a_time, ranking_jobs
from usage_pipeline.rollups.daily import current_day
from usage_pipeline.rollups.rankings import RANKINGS
from usage_pipeline.rollups.stale.dates import StaleDate, StaleRange, stale_dates, stale_ranges
from usage_pipeline.settings import Settings
from usage_pipeline.storage.postgres import PostgresUnavailable, connect

_INTERVAL_SECONDS = 60
_RUNS_PER_TICK = 25
# One statement makes a year of dates, see STATS_BACKFILL_POLICY.
_DAYS_PER_RUN = 366
# A range that a run did not mend is asked for again after 10, 20, 40 … minutes: the longer it fails, the more rarely.
_FIRST_WAIT = timedelta(minutes=10)
_JOBS = {
    ".".join(ISSUE_STATS_KEY.path): (issue_stats.name, ISSUE_STATS_KEY),
    **{one.table: (ranking_jobs[is_of_issues(one)].name, ranking_key(one)) for one in RANKINGS},
}


def late_stats_sensor(settings: Settings) -> dg.SensorDefinition:
    """The sensor `late_stats`. Its cursor has the run keys that it asked for and that are still wanted."""
    starts = {
        **dict.fromkeys(_JOBS, settings.stats_start_date),
        **{one.table: settings.usage_start_date for one in RANKINGS if not is_of_issues(one)},
    }

    @dg.sensor(
        name="late_stats",
        jobs=[issue_stats, *ranking_jobs.values()],
        minimum_interval_seconds=_INTERVAL_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Makes past dates of issue statistics and rankings again when what they count changed, oldest first.",
    )
    def late_stats(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        now = datetime.now(UTC)
        try:
            with closing(connect(settings)) as connection:
                stale = stale_dates(connection, today=current_day(settings.timezone))
        except PostgresUnavailable as problem:
            return dg.SkipReason(str(problem))
        wanted = dict(_requests([one for one in stale if one.date >= starts[one.table]], now))
        # What was asked for waits for its turn to be asked again; meanwhile it takes no place of what comes after it.
        asked = [key for key in json.loads(context.cursor or "[]") if key in wanted]
        fresh = [request for key, request in wanted.items() if key not in set(asked)][:_RUNS_PER_TICK]
        keys = asked + [str(request.run_key) for request in fresh]
        said = (
            None
            if fresh
            else f"Dates that wait for their runs: {len(asked)}."
            if asked
            else "No past date has changed."
        )
        return dg.SensorResult(run_requests=fresh, skip_reason=said, cursor=json.dumps(keys))

    return late_stats


def _requests(stale: list[StaleDate], now: datetime) -> Iterator[tuple[str, dg.RunRequest]]:
    """The run of each range of dates, oldest first, with its run key."""
    by_job: dict[str, list[StaleDate]] = defaultdict(list)
    for one in stale:
        by_job[_JOBS[one.table][0]].append(one)
    ranges = [(found, job) for job in by_job for found in stale_ranges(by_job[job], most_days=_DAYS_PER_RUN)]
    for found, job in sorted(ranges, key=lambda one: (one[0].first, one[1])):
        partitions = f"{found.first}...{found.last}"
        keys = [_JOBS[table][1] for table in found.tables]
        names = ",".join(key.path[-1] for key in keys)
        run_key = f"{names}:{partitions}:{found.touched_at.timestamp():.6f}:{_attempt(found, now)}"
        tags = {
            "dagster/asset_partition_range_start": found.first.isoformat(),
            "dagster/asset_partition_range_end": found.last.isoformat(),
            **one_at_a_time(job, partitions),
            **because(f"what these dates count changed at {found.touched_at:%Y-%m-%d %H:%M:%S}Z, after they were made"),
        }
        yield run_key, dg.RunRequest(job_name=job, run_key=run_key, asset_selection=keys, tags=tags)


def _attempt(found: StaleRange, now: datetime) -> int:
    """The number of times that the range may have been asked for by now."""
    return int(math.log2(max(1.0, (now - found.touched_at) / _FIRST_WAIT)))
