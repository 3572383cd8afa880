"""How a run replaces its partitions: a partition that fails does not fail its neighbours, in any partitioned asset.

The others are materialized. The failed ones stay red, the run has their reasons, and a re-run of them is enough. When somebody
cancels a run, the partitions that it had finished are materialized.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import dagster as dg

from usage_pipeline.rollups.daily import SourceGoneError
from usage_pipeline.storage.postgres import PostgresUnavailable, first_line, is_connection_lost, refused_for_good
from usage_pipeline.storage.redis import RedisUnavailable
from usage_pipeline.texts import counted

Metadata = Mapping[str, Any]
# Replaces these partitions, all or none of them, and says the metadata of each.
Replace = Callable[[Sequence[str]], Mapping[str, Metadata]]
PartitionEvents = Iterator[dg.AssetMaterialization | dg.MaterializeResult[None]]
# A description is one paragraph; all failures are in the metadata.
_FAILURES_DESCRIBED = 5


def one_by_one(context: dg.AssetExecutionContext, replace: Callable[[str], Metadata]) -> PartitionEvents:
    """Replaces each partition of the run on its own. The body of an asset yields from this."""
    yield from _replace_all(context, lambda keys: {key: replace(key) for key in keys}, at_once=1)


def all_at_once(context: dg.AssetExecutionContext, replace: Replace) -> PartitionEvents:
    """Replaces all partitions of the run by one call. If it fails, each half is tried, down to the one that fails."""
    yield from _replace_all(context, replace, at_once=len(context.partition_keys))


def _replace_all(context: dg.AssetExecutionContext, replace: Replace, *, at_once: int) -> PartitionEvents:
    # The retry policy calls the body again: only for what is not done yet.
    before = _materialized_before(context) if context.retry_number else {}
    keys = [key for key in context.partition_keys if key not in before]
    done: dict[str, Metadata] = {}
    failed: dict[str, Exception] = {}
    try:
        for first in range(0, len(keys), at_once):
            _replace_or_split(keys[first : first + at_once], replace, done, failed)
    except (Exception, dg.DagsterExecutionInterruptedError):
        yield from _materializations(context, done)
        raise
    if failed:
        yield from _materializations(context, done)
        raise _failure(failed, len(keys)) from next(iter(failed.values()))
    for key, metadata in {**before, **done}.items():
        context.add_asset_metadata(metadata, partition_key=key)
    # The events of all partitions, in batches: a tenth of the time of single ones.
    yield dg.MaterializeResult()


def _replace_or_split(
    keys: Sequence[str], replace: Replace, done: dict[str, Metadata], failed: dict[str, Exception]
) -> None:
    try:
        done.update(replace(keys))
    except Exception as error:
        # Without a server each of the others would only fail the same way.
        if isinstance(error, PostgresUnavailable | RedisUnavailable) or is_connection_lost(error):
            raise
        if len(keys) == 1:
            failed[keys[0]] = error
            return
        for half in (keys[: len(keys) // 2], keys[len(keys) // 2 :]):
            _replace_or_split(half, replace, done, failed)


def _materializations(
    context: dg.AssetExecutionContext, done: Mapping[str, Metadata]
) -> Iterator[dg.AssetMaterialization]:
    """Events of single partitions, for a step that fails: its output, which would materialize the whole range, is missing."""
    for key, metadata in done.items():
        yield dg.AssetMaterialization(context.asset_key, partition=key, metadata=metadata)


def _failure(failed: Mapping[str, Exception], tried: int) -> dg.Failure:
    reasons = {key: f"{type(error).__name__}: {first_line(error)}" for key, error in failed.items()}
    described = "; ".join(f"{key}: {reason}" for key, reason in list(reasons.items())[:_FAILURES_DESCRIBED])
    more = len(failed) - _FAILURES_DESCRIBED
    return dg.Failure(
        f"{len(failed)} of {counted(tried, 'partition')} failed. The others are stored. {described}"
        + (f"; and {more} more" if more > 0 else ""),
        metadata={"failed_partitions": dg.MetadataValue.json(reasons)},
        # Rows that are archived do not come back by waiting, and a statement that is refused for good is refused again.
        allow_retries=not all(
            isinstance(error, SourceGoneError) or refused_for_good(error) for error in failed.values()
        ),
    )


def _materialized_before(context: dg.AssetExecutionContext) -> dict[str, Metadata]:
    """The partitions that earlier attempts of this step have materialized, with their metadata."""
    keys = list(context.partition_keys)
    wanted = dg.AssetRecordsFilter(asset_key=context.asset_key, asset_partitions=keys)
    # Newest first. Another run may have materialized the same days meanwhile, hence twice as many.
    records = context.instance.fetch_materializations(wanted, limit=2 * len(keys)).records
    found = {
        record.partition_key: record.asset_materialization.metadata
        for record in reversed(records)
        if record.run_id == context.run.run_id and record.partition_key and record.asset_materialization
    }
    return {key: found[key] for key in keys if key in found}
