"""The jobs, which schedules, sensors and people launch."""

import dagster as dg

from usage_pipeline.defs.assets.daily import daily_key
from usage_pipeline.defs.assets.external import EXTERNAL_TAG, POSTS_KEY
from usage_pipeline.defs.assets.issues import ISSUE_STATS_KEY
from usage_pipeline.defs.assets.landing import LANDED_FILES
from usage_pipeline.defs.assets.merchants import MERCHANT_USAGE_KEY
from usage_pipeline.defs.assets.ops.history import HISTORY_KEY
from usage_pipeline.defs.assets.ops.lifecycle import LIFECYCLE_KEY
from usage_pipeline.defs.assets.ops.reconciliation import RECONCILIATION_KEY
from usage_pipeline.defs.assets.rankings import is_of_issues, ranking_key
from usage_pipeline.defs.assets.redis_sources import SOURCES, source_key
from usage_pipeline.defs.assets.reports import REPORT_GRAINS, report_key
from usage_pipeline.defs.assets.snapshots import DRAIN_TAG, output_keys
from usage_pipeline.defs.assets.windows import EVENTS_KEY, window_key
from usage_pipeline.defs.checks.freshness import freshness_check_keys
from usage_pipeline.drain.rounds import ALL_FAMILIES
from usage_pipeline.rollups.calendar import GRAINS
from usage_pipeline.rollups.rankings import RANKINGS
from usage_pipeline.rollups.window_tables import WINDOW_TABLES

# dagster.yaml lets one run at a time have each value of this tag; advisory locks underneath keep the others' runs apart, too.
# The prefix hides it: the list of runs shows what is worth reading.
_ONE_AT_A_TIME = ".dagster/usage_pipeline_one_at_a_time"


def one_at_a_time(job: str, partition: str | None = None) -> dict[str, str]:
    """The tag of a run that must not run twice at the same time: of a job, or of a partition of it."""
    return {_ONE_AT_A_TIME: job if partition is None else f"{job}/{partition}"}


def because(reason: str) -> dict[str, str]:
    """The tag that says why a sensor asks for a run. The list of runs shows it."""
    return {"usage_pipeline/reason": reason}


def _partitioned(*keys: dg.AssetKey) -> dg.AssetSelection:
    """Assets with their checks, except `is_fresh`, which has its own schedule."""
    return dg.AssetSelection.assets(*keys) - dg.AssetSelection.checks(*freshness_check_keys())


drain_now = dg.define_asset_job(
    "drain_now",
    selection=dg.AssetSelection.assets(*(key for family in ALL_FAMILIES for key in output_keys(family))),
    description="Moves all counters from Redis to PostgreSQL once. The drain sensors do the same all the time.",
    tags=DRAIN_TAG,
)
daily_tables = dg.define_asset_job(
    "daily_tables",
    selection=_partitioned(*(daily_key(family) for family in ("api_key", "provider", "token"))),
    description="Makes days of usage/*_daily again from the raw rows.",
)
merchant_usage = dg.define_asset_job(
    "merchant_usage",
    selection=_partitioned(MERCHANT_USAGE_KEY),
    description="Stores what the merchant counters in Redis count for a day.",
)
observe_sources = dg.define_asset_job(
    "observe_sources",
    selection=dg.AssetSelection.assets(*(source_key(family) for family in SOURCES)),
    description="Counts the keys and items that wait in Redis, and checks that none waits too long.",
    tags=one_at_a_time("observe_sources"),
)

# By grain, since the assets of a job share their partitions.
window_jobs = {
    grain: dg.define_asset_job(
        WINDOW_TABLES[grain].name,
        # Nobody materializes events; their check goes with the first roll-up of them.
        selection=_partitioned(window_key(grain))
        | dg.AssetSelection.checks_for_assets(*([EVENTS_KEY] if grain == "hour" else [])),
        description=f"Makes {grain}s of {window_key(grain).to_user_string()} again from their source.",
    )
    for grain in GRAINS
}
storage_lifecycle = dg.define_asset_job(
    "storage_lifecycle",
    selection=dg.AssetSelection.assets(LIFECYCLE_KEY),
    description="Creates partitions for the next days, compresses or archives old ones, and drops the oldest.",
    tags=one_at_a_time("storage_lifecycle"),
)
history = dg.define_asset_job(
    "history",
    selection=dg.AssetSelection.assets(HISTORY_KEY),
    description="Removes old runs, events and check results from Dagster's own history. No status changes.",
    tags=one_at_a_time("history"),
)
external_posts = dg.define_asset_job(
    "external_posts",
    selection=dg.AssetSelection.assets(POSTS_KEY),
    description="Fetches the configured posts of the external API.",
    tags=EXTERNAL_TAG,
)
issue_stats = dg.define_asset_job(
    "issue_stats",
    selection=_partitioned(ISSUE_STATS_KEY),
    description="Makes days of stats/daily_issue_stats again from the issues.",
)
# Two jobs, since the assets of a job share their partitions: issues are older than usage.
ranking_jobs = {
    of_issues: dg.define_asset_job(
        "issue_ranking" if of_issues else "usage_rankings",
        selection=_partitioned(*(ranking_key(one) for one in RANKINGS if is_of_issues(one) == of_issues)),
        description=f"Makes dates of stats/popular_{'issues' if of_issues else '*'} again, and writes that of today to Redis.",
    )
    for of_issues in (True, False)
}
# By grain, as those of windows.
report_jobs = {
    grain: dg.define_asset_job(
        f"report_of_{grain}",
        selection=_partitioned(report_key(grain)),
        description=f"Makes reports of {grain}s that ended, and sends the newest one where SEND_REPORTS says so.",
    )
    for grain in REPORT_GRAINS
}
reconcile = dg.define_asset_job(
    "reconcile",
    selection=dg.AssetSelection.assets(RECONCILIATION_KEY),
    description="Checks that everything that our recorder wrote to Redis is stored, waits, or was refused.",
    tags=one_at_a_time("reconcile"),
)
# Drains write these all the time, and their sensors run no checks.
counter_checks = dg.define_asset_job(
    "counter_checks",
    selection=dg.AssetSelection.checks_for_assets(
        *(key for family in ALL_FAMILIES for key in output_keys(family)), LANDED_FILES
    ),
    description="Checks that the totals equal the drained rows, that nothing was refused, and that landed files are read.",
    tags=one_at_a_time("counter_checks"),
)
freshness = dg.define_asset_job(
    "freshness",
    selection=dg.AssetSelection.checks(*freshness_check_keys()),
    description="Checks that the newest partition that ended was made, for each asset with partitions.",
    tags=one_at_a_time("freshness"),
)
JOBS = [
    drain_now,
    daily_tables,
    merchant_usage,
    observe_sources,
    storage_lifecycle,
    history,
    external_posts,
    *window_jobs.values(),
    issue_stats,
    *ranking_jobs.values(),
    *report_jobs.values(),
    reconcile,
    counter_checks,
    freshness,
]
