"""When an asset is fresh. A backfill of old days does not make an asset fresh.

Dagster's freshness policies look at the latest materialization of any partition, so only assets without partitions have one.
The others have the check `is_fresh`: the newest partition that ended was made, and was made after it ended.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import dagster as dg
from cronsim import CronSim

from usage_pipeline.defs.assets.daily import daily_key
from usage_pipeline.defs.assets.external import POSTS_KEY
from usage_pipeline.defs.assets.issues import ISSUE_STATS_KEY
from usage_pipeline.defs.assets.merchants import MERCHANT_USAGE_KEY
from usage_pipeline.defs.assets.ops.history import HISTORY_KEY
from usage_pipeline.defs.assets.ops.lifecycle import LIFECYCLE_KEY
from usage_pipeline.defs.assets.ops.reconciliation import RECONCILIATION_KEY
from usage_pipeline.defs.assets.rankings import is_of_issues, ranking_key
from usage_pipeline.defs.assets.snapshots import output_keys
from usage_pipeline.defs.assets.windows import window_key, window_partition
from usage_pipeline.defs.checks.results import faults_result
from usage_pipeline.defs.partitions.calendar import daily_partitions, stats_partitions, window_partitions
from usage_pipeline.drain.rounds import ALL_FAMILIES
from usage_pipeline.rollups.calendar import GRAINS, Grain, Window, day_window
from usage_pipeline.rollups.due_windows import closed_windows
from usage_pipeline.rollups.rankings import RANKINGS
from usage_pipeline.settings import Settings
from usage_pipeline.texts import counted

IS_FRESH = "is_fresh"
_HOURS = timedelta(hours=1)
# Runs wait for each other, and a failed one is tried again within the hour.
_UNTIL_ALL_SCHEDULES_CAME = 26 * _HOURS
_GRACE: Mapping[Grain, timedelta] = {
    "hour": timedelta(minutes=30),
    "day": 2 * _HOURS,
    "week": 3 * _HOURS,
    "month": 3 * _HOURS,
}


@dataclass(frozen=True, slots=True)
class Partitioned:
    """An asset with partitions by time. A partition must be made within `grace` after its end."""

    key: dg.AssetKey
    grain: Grain
    partitions: dg.TimeWindowPartitionsDefinition
    grace: timedelta

    def partition(self, window: Window) -> str | None:
        """The partition of a window; None when it lies before the first one."""
        return window_partition(self.grain, self.partitions, window)


def freshness_policies() -> dict[dg.AssetKey, dg.FreshnessPolicy]:
    """The policies of assets without partitions. The drain sensors report at least every half hour, also without traffic."""
    hourly = dg.FreshnessPolicy.time_window(fail_window=6 * _HOURS, warn_window=2 * _HOURS)
    drained = dg.FreshnessPolicy.time_window(fail_window=2 * _HOURS, warn_window=_HOURS)
    daily = dg.FreshnessPolicy.time_window(fail_window=50 * _HOURS, warn_window=26 * _HOURS)
    return {
        **{key: drained for family in ALL_FAMILIES for key in output_keys(family)},
        RECONCILIATION_KEY: hourly,
        POSTS_KEY: hourly,
        LIFECYCLE_KEY: daily,
        HISTORY_KEY: daily,
    }


def with_freshness_policies(asset: dg.AssetsDefinition | dg.AssetSpec) -> dg.AssetsDefinition | dg.AssetSpec:
    """The asset with its policy, where it has one."""
    policies = freshness_policies()

    def applied(spec: dg.AssetSpec) -> dg.AssetSpec:
        policy = policies.get(spec.key)
        return dg.apply_freshness_policy(spec, policy) if policy else spec

    return asset.map_asset_specs(applied) if isinstance(asset, dg.AssetsDefinition) else applied(asset)


def partitioned_assets(settings: Settings) -> list[Partitioned]:
    """All assets whose partitions must be made after they end."""
    days, stats, windows = daily_partitions(settings), stats_partitions(settings), window_partitions(settings)
    grace = _GRACE["day"]
    return [
        *(Partitioned(daily_key(family), "day", days, grace) for family in ("api_key", "provider", "token")),
        Partitioned(MERCHANT_USAGE_KEY, "day", days, grace),
        *(Partitioned(window_key(grain), grain, windows[grain], _GRACE[grain]) for grain in GRAINS),
        Partitioned(ISSUE_STATS_KEY, "day", stats, _until_stats_are_made(settings) + grace),
        *(Partitioned(ranking_key(one), "day", stats if is_of_issues(one) else days, grace) for one in RANKINGS),
    ]


def freshness_check_keys() -> list[dg.AssetCheckKey]:
    """The keys of `is_fresh` of all assets with partitions."""
    return [dg.AssetCheckKey(one.key, IS_FRESH) for one in partitioned_assets(Settings.model_construct())]


def freshness_checks(settings: Settings) -> dg.AssetChecksDefinition:
    """`is_fresh` of all assets with partitions, in one step that a schedule runs."""
    known = {one.key: one for one in partitioned_assets(settings)}

    @dg.multi_asset_check(
        name="partitions_are_fresh",
        specs=[
            dg.AssetCheckSpec(
                IS_FRESH,
                asset=one.key,
                description=f"The newest {one.grain} that ended at least {_in_words(one.grace)} ago was made after its end.",
            )
            for one in known.values()
        ],
        can_subset=True,
    )
    def partitions_are_fresh(context: dg.AssetCheckExecutionContext):  # type: ignore[no-untyped-def]  # dagster reads it
        now = datetime.now(UTC)
        is_new = _is_new(context.instance, now)
        for check in sorted(context.selected_asset_check_keys):
            one = known[check.asset_key]
            [last] = closed_windows(one.grain, now - one.grace, 1, settings.timezone)
            faults = [f"{key}: {said}" for key, said in missed(context.instance, one, [last]).items()]
            if not is_new and _made_at(context.instance, one.key, None) is None:
                faults.append("no partition was made yet")
            key = one.partition(last)
            made = _made_at(context.instance, one.key, key) if key else None
            yield faults_result(
                faults,
                name=IS_FRESH,
                asset=one.key,
                severity=dg.AssetCheckSeverity.ERROR,
                numbers={"age_seconds": (now - made).total_seconds()} if made else {},
            )

    return partitions_are_fresh


def missed(instance: dg.DagsterInstance, asset: Partitioned, windows: Sequence[Window]) -> dict[str, str]:
    """Partitions of these ended windows that were not made after their end, each with what is wrong.

    A window that ended before the asset was first made does not count: a new installation has missed nothing.
    """
    first_made = _made_at(instance, asset.key, None)
    found: dict[str, str] = {}
    if first_made is None:
        return found
    for window in windows:
        key = asset.partition(window)
        if key is None or first_made >= window.end:
            continue
        made = _made_at(instance, asset.key, key)
        if made is None:
            found[key] = "was not made"
        elif made < window.end:
            found[key] = f"was made at {made:%Y-%m-%d %H:%M}Z, before it ended at {window.end:%Y-%m-%d %H:%M}Z"
    return found


def _is_new(instance: dg.DagsterInstance, now: datetime) -> bool:
    """Whether the oldest run is from today: then no schedule has had its turn, and nothing is late."""
    oldest = instance.get_run_records(limit=1, ascending=True)
    return not oldest or now - oldest[0].create_timestamp.replace(tzinfo=UTC) < _UNTIL_ALL_SCHEDULES_CAME


def _in_words(span: timedelta) -> str:
    minutes = span // timedelta(minutes=1)
    return counted(minutes // 60, "hour") if minutes % 60 == 0 else counted(minutes, "minute")


def _made_at(instance: dg.DagsterInstance, key: dg.AssetKey, partition: str | None) -> datetime | None:
    """When the partition was last made. Without `partition`: when the first one was made."""
    wanted = dg.AssetRecordsFilter(asset_key=key, asset_partitions=None if partition is None else [partition])
    records = instance.fetch_materializations(wanted, limit=1, ascending=partition is None).records
    return datetime.fromtimestamp(records[0].timestamp, UTC) if records else None


def _until_stats_are_made(settings: Settings) -> timedelta:
    """The longest time from the end of a day to the next STATS_CRON_SCHEDULE in a sample year, at most a week."""
    at = datetime(2026, 1, 1, tzinfo=settings.timezone)
    longest, cron = timedelta(0), CronSim(settings.stats_cron_schedule, at - timedelta(microseconds=1))
    due = next(cron, None)
    for offset in range(366):
        midnight = day_window(at.date() + timedelta(days=offset), settings.timezone).first
        while due is not None and due < midnight:
            due = next(cron, None)
        if due is None:
            break
        longest = max(longest, due - midnight)
    return min(longest, timedelta(days=7))
