"""Whether what a failed run was to make was made since."""

from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache

import dagster as dg

# An asset and a partition of it, or None.
Place = tuple[dg.AssetKey, str | None]
# Of a run that was to make more, or was made more often, not all is looked at: then it is not mended.
_MOST_RECORDS = 2_000
_MOST_SUCCESSES = 500


class Repairs:
    """What was made since the oldest of these failed runs."""

    def __init__(self, instance: dg.DagsterInstance, failures: Sequence[dg.RunRecord]) -> None:
        self._instance = instance
        self._needed = {one.dagster_run.run_id: _needed(instance, one) for one in failures}
        oldest = min((_failed_at(one) for one in failures), default=0.0)
        wanted: defaultdict[dg.AssetKey, set[str | None]] = defaultdict(set)
        for places in self._needed.values():
            for asset, partition in places:
                wanted[asset].add(partition)
        self._made: dict[Place, float] = {}
        for asset, partitions in wanted.items():
            self._look(asset, partitions, oldest)
        self._successes: dict[str, Sequence[dg.RunRecord]] = {}

    def has_mended(self, failure: dg.RunRecord) -> bool:
        """All of it was made after the failure. A run without assets is mended by a later one of its job that succeeds."""
        failed_at, needed = _failed_at(failure), self._needed[failure.dagster_run.run_id]
        if needed:
            return all(self._made.get(place, 0.0) > failed_at for place in needed) or self._was_repeated(failure)
        return self._was_repeated(failure)

    def _look(self, asset: dg.AssetKey, partitions: set[str | None], since: float) -> None:
        named = sorted(one for one in partitions if one is not None)
        wanted = dg.AssetRecordsFilter(asset, asset_partitions=named or None, after_timestamp=since)
        for record in self._instance.fetch_materializations(wanted, limit=_MOST_RECORDS).records:
            place = (asset, record.partition_key)
            self._made[place] = max(self._made.get(place, 0.0), record.timestamp)

    def _was_repeated(self, failure: dg.RunRecord) -> bool:
        """Whether a later run of its job, over at least its partitions and assets, succeeded."""
        run = failure.dagster_run
        if run.job_name not in self._successes:
            wanted = dg.RunsFilter(job_name=run.job_name, statuses=[dg.DagsterRunStatus.SUCCESS])
            self._successes[run.job_name] = self._instance.get_run_records(wanted, limit=_MOST_SUCCESSES)
        return any(_covers(one, failure) for one in self._successes[run.job_name])


def _covers(success: dg.RunRecord, failure: dg.RunRecord) -> bool:
    mended, failed = success.dagster_run, failure.dagster_run
    if _failed_at(success) < _failed_at(failure):
        return False
    if mended.asset_selection and not (failed.asset_selection and failed.asset_selection <= mended.asset_selection):
        return False
    (first, last), (failed_first, failed_last) = partitions_of(mended), partitions_of(failed)
    # Keys are days or hours: their order is that of time.
    return first <= failed_first and failed_last <= last and bool(first) == bool(failed_first)


def _needed(instance: dg.DagsterInstance, failure: dg.RunRecord) -> frozenset[Place]:
    """What a failed run was to make and did not; all of it, if it made all and failed nevertheless, as by a check."""
    planned, made = _of_run(instance, failure.dagster_run.run_id)
    return planned - made or planned


@lru_cache(maxsize=1_000)
def _of_run(instance: dg.DagsterInstance, run_id: str) -> tuple[frozenset[Place], frozenset[Place]]:
    """What an ended run was to make, and what it made."""
    kinds = {dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED, dg.DagsterEventType.ASSET_MATERIALIZATION}
    planned, made = set[Place](), set[Place]()
    for entry in instance.all_logs(run_id, of_type=kinds):
        event = entry.get_dagster_event()
        if event.asset_key is None:
            continue
        if event.event_type is dg.DagsterEventType.ASSET_MATERIALIZATION:
            made.add((event.asset_key, event.partition))
            continue
        subset = event.asset_materialization_planned_data.partitions_subset
        keys = [event.partition] if subset is None else subset.get_partition_keys()
        planned |= {(event.asset_key, key) for key in keys}
    return frozenset(planned), frozenset(made)


def assets_of(run: dg.DagsterRun, instance: dg.DagsterInstance | None = None) -> tuple[str, ...]:
    """The assets of a run: those that it was asked for, or, with the instance, that it was to make."""
    keys = set(run.asset_selection or ()) | {check.asset_key for check in run.asset_check_selection or ()}
    if not keys and instance is not None:
        keys = {asset for asset, _ in _of_run(instance, run.run_id)[0]}
    return tuple(sorted(key.to_user_string() for key in keys))


def partitions_of(run: dg.DagsterRun) -> tuple[str, str]:
    """First and last partition; empty for a run without partitions."""
    only = run.tags.get("dagster/partition", "")
    return (
        run.tags.get("dagster/asset_partition_range_start", only),
        run.tags.get("dagster/asset_partition_range_end", only),
    )


def _failed_at(record: dg.RunRecord) -> float:
    ended_at = record.end_time or record.update_timestamp.timestamp()
    return datetime.fromtimestamp(ended_at, UTC).timestamp()
