"""Jobs that schedules and sensors launch, and that people find by name."""

import dagster as dg

from usage_pipeline.counters.drain_round import ALL_FAMILIES
from usage_pipeline.defs.assets.daily import daily_key
from usage_pipeline.defs.assets.external import EXTERNAL_TAG, POSTS_KEY
from usage_pipeline.defs.assets.history import HISTORY_KEY
from usage_pipeline.defs.assets.issues import ISSUE_STATS_KEY
from usage_pipeline.defs.assets.lifecycle import LIFECYCLE_KEY
from usage_pipeline.defs.assets.rankings import is_of_issues, ranking_key
from usage_pipeline.defs.assets.redis_sources import SOURCES, source_key
from usage_pipeline.defs.assets.snapshots import DRAIN_TAG, output_keys
from usage_pipeline.defs.assets.windows import EVENTS_KEY, window_key
from usage_pipeline.rollups.calendar import GRAINS
from usage_pipeline.rollups.rankings import RANKINGS
from usage_pipeline.rollups.windows import WINDOW_TABLES

drain_now = dg.define_asset_job(
    "drain_now",
    selection=dg.AssetSelection.assets(*(key for family in ALL_FAMILIES for key in output_keys(family))),
    description="Drains all counters from Redis once; the drain sensors do the same all the time.",
    tags=DRAIN_TAG,
)
daily_tables = dg.define_asset_job(
    "daily_tables",
    selection=dg.AssetSelection.assets(*(daily_key(family) for family in ("api_key", "provider", "token"))),
    description="Replaces days of usage/*_daily from the snapshots.",
)
merchant_usage = dg.define_asset_job(
    "merchant_usage",
    selection=dg.AssetSelection.assets(dg.AssetKey(["usage", "merchant_usage"])),
    description="Aggregates merchant counters of a day from Redis.",
)
observe_sources = dg.define_asset_job(
    "observe_sources",
    selection=dg.AssetSelection.assets(*(source_key(family) for family in SOURCES)),
    description="Counts what waits in Redis.",
)

# By grain, since the assets of a job share their partitions.
window_jobs = {
    grain: dg.define_asset_job(
        WINDOW_TABLES[grain].name,
        # Nobody materializes events; their check goes with the first roll-up of them.
        selection=dg.AssetSelection.assets(window_key(grain))
        | dg.AssetSelection.checks_for_assets(*([EVENTS_KEY] if grain == "hour" else [])),
        description=f"Replaces {grain}s of {window_key(grain).to_user_string()}.",
    )
    for grain in GRAINS
}
storage_lifecycle = dg.define_asset_job(
    "storage_lifecycle",
    selection=dg.AssetSelection.assets(LIFECYCLE_KEY),
    description="Partitions ahead, old ones compressed or archived, the oldest dropped.",
)
history = dg.define_asset_job(
    "history",
    selection=dg.AssetSelection.assets(HISTORY_KEY),
    description="Prunes Dagster's own runs, event rows and check executions; no status changes.",
)
external_posts = dg.define_asset_job(
    "external_posts",
    selection=dg.AssetSelection.assets(POSTS_KEY),
    description="Fetches the configured posts of the external API.",
    tags=EXTERNAL_TAG,
)
issue_stats = dg.define_asset_job(
    "issue_stats",
    selection=dg.AssetSelection.assets(ISSUE_STATS_KEY),
    description="Replaces days of stats/daily_issue_stats.",
)
# Two jobs, since the assets of a job share their partitions: issues are older than usage.
ranking_jobs = {
    of_issues: dg.define_asset_job(
        "issue_ranking" if of_issues else "usage_rankings",
        selection=dg.AssetSelection.assets(*(ranking_key(one) for one in RANKINGS if is_of_issues(one) == of_issues)),
        description=f"Replaces dates of stats/popular_{'issues' if of_issues else '*'} and publishes the newest in Redis.",
    )
    for of_issues in (True, False)
}
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
]
