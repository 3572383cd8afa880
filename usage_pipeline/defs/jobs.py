"""Jobs that schedules and sensors launch, and that people find by name."""

import dagster as dg

from usage_pipeline.counters.drain_round import ALL_FAMILIES
from usage_pipeline.defs.assets.daily import daily_key
from usage_pipeline.defs.assets.lifecycle import LIFECYCLE_KEY
from usage_pipeline.defs.assets.redis_sources import SOURCES, source_key
from usage_pipeline.defs.assets.snapshots import DRAIN_TAG, output_keys

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
storage_lifecycle = dg.define_asset_job(
    "storage_lifecycle",
    selection=dg.AssetSelection.assets(LIFECYCLE_KEY),
    description="Partitions ahead, old ones compressed or archived, the oldest dropped.",
)
JOBS = [drain_now, daily_tables, merchant_usage, observe_sources, storage_lifecycle]
