"""The whole code location on one screen. Tests build it with the same function."""

import warnings
from collections.abc import Mapping

import dagster as dg

from usage_pipeline.defs.assets.daily import daily_assets
from usage_pipeline.defs.assets.external import external_posts
from usage_pipeline.defs.assets.issues import issue_sources, issue_stats_asset
from usage_pipeline.defs.assets.landing import landed_files
from usage_pipeline.defs.assets.merchants import merchant_usage_asset
from usage_pipeline.defs.assets.ops.history import dagster_history
from usage_pipeline.defs.assets.ops.lifecycle import storage_lifecycle
from usage_pipeline.defs.assets.ops.reconciliation import reconciliation
from usage_pipeline.defs.assets.rankings import ranking_assets
from usage_pipeline.defs.assets.redis_sources import redis_sources
from usage_pipeline.defs.assets.reports import report_assets
from usage_pipeline.defs.assets.snapshots import snapshots_and_totals
from usage_pipeline.defs.assets.windows import day_part_sources, usage_events_source, window_assets
from usage_pipeline.defs.checks.counters import counter_asset_checks
from usage_pipeline.defs.checks.freshness import freshness_checks, with_freshness_policies
from usage_pipeline.defs.checks.issues import follows_issues
from usage_pipeline.defs.checks.rankings import ranking_asset_checks
from usage_pipeline.defs.checks.windows import window_asset_checks
from usage_pipeline.defs.jobs import JOBS
from usage_pipeline.defs.metadata import with_table_facts
from usage_pipeline.defs.partitions.calendar import (
    daily_partitions,
    report_partitions,
    stats_partitions,
    window_partitions,
)
from usage_pipeline.defs.schedules.all import schedules
from usage_pipeline.defs.sensors.alerts import alert_sensors
from usage_pipeline.defs.sensors.drains import sensors
from usage_pipeline.defs.sensors.landed_files import landed_files_sensor
from usage_pipeline.defs.switched_off import schedules_off, sensors_off
from usage_pipeline.defs.views import reporting_views
from usage_pipeline.settings import Settings, load_settings


def build_definitions(resource_overrides: Mapping[str, object] | None = None) -> dg.Definitions:
    """All definitions. `resource_overrides` replaces resources by name: tests pass {"settings": Settings(...)}.

    Raises SettingsError when the environment has a wrong setting.
    """
    resources: dict[str, object] = {"settings": None, **(resource_overrides or {})}
    settings = resources["settings"] = resources["settings"] or load_settings()
    if not isinstance(settings, Settings):
        raise TypeError(f"expected resource `settings` to be Settings, came {type(settings).__name__}")
    days = daily_partitions(settings)
    with warnings.catch_warnings():
        # Observable sources, backfill policies and code references are still beta. We want them, so their notice is only noise.
        warnings.simplefilter("ignore", dg.BetaWarning)
        assets: list[dg.AssetsDefinition | dg.AssetSpec] = [
            redis_sources(),
            snapshots_and_totals(),
            *daily_assets(days),
            merchant_usage_asset(days),
            landed_files,
            usage_events_source(),
            *day_part_sources(),
            *window_assets(window_partitions(settings)),
            storage_lifecycle,
            dagster_history,
            external_posts,
            *issue_sources(),
            issue_stats_asset(stats_partitions(settings)),
            *ranking_assets(days, stats_partitions(settings)),
            reconciliation,
            *report_assets(report_partitions(settings)),
        ]
        assets += reporting_views(assets)
        described = dg.with_source_code_references(with_table_facts(with_freshness_policies(asset) for asset in assets))
    timed = schedules(settings)
    watching = [*sensors(settings), landed_files_sensor(settings), *alert_sensors()]
    if not settings.enable_job_scheduler:
        timed, watching = schedules_off(timed), sensors_off(watching)
    return dg.Definitions(
        assets=described,
        asset_checks=[
            *window_asset_checks(),
            *ranking_asset_checks(),
            follows_issues,
            *counter_asset_checks(),
            freshness_checks(settings),
        ],
        jobs=JOBS,
        schedules=timed,
        sensors=watching,
        resources=resources,
        # Our jobs are short: in one process a run takes half the time of one process per step.
        executor=dg.in_process_executor,
    )


@dg.definitions
def defs() -> dg.Definitions:
    """The definitions that Dagster loads. The environment is read only when Dagster calls this."""
    return build_definitions()
