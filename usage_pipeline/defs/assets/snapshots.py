"""`snapshots/*` (drained rows) and the running totals. One drain makes both, so "Materialize" in the UI drains now."""

from collections.abc import Iterator, Mapping
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import dagster as dg

from usage_pipeline.defs.assets.redis_sources import source_key
from usage_pipeline.defs.metadata import OWNERS, null_shares, table_metadata, table_rows
from usage_pipeline.drain.readings.batch_profile import profile_batches
from usage_pipeline.drain.readings.ledger import FamilySummary, summarize
from usage_pipeline.drain.rounds import ALL_FAMILIES, DrainImpossible, drain_once
from usage_pipeline.settings import Settings
from usage_pipeline.storage.postgres import connect
from usage_pipeline.storage.table_profile import profile_table

# Family -> (asset key, table, what it is) of what its drain writes; the totals come after the snapshot that they sum up.
_OUTPUTS: Mapping[str, list[tuple[list[str], str, str]]] = {
    "api_key": [
        (
            ["snapshots", "api_key_deltas"],
            "raw.api_key_deltas",
            "Counts of API keys as they were drained: one row per batch and key.",
        ),
        (["usage", "api_keys"], "usage.api_keys", "Running totals per API key."),
    ],
    "provider": [
        (
            ["snapshots", "provider_deltas"],
            "raw.provider_deltas",
            "Counts of API keys and providers as they were drained: one row per batch and key.",
        ),
        (["usage", "provider_usage"], "usage.provider_usage", "Running totals per API key and provider."),
    ],
    "token": [
        (
            ["snapshots", "token_deltas"],
            "raw.token_deltas",
            "Counts of API tokens as they were drained: one row per batch and key.",
        ),
        (["usage", "api_access_tokens"], "usage.api_access_tokens", "API tokens with their running totals."),
    ],
    "event": [
        (["snapshots", "request_events"], "raw.request_events", "Request events, each stored once by its event_id."),
    ],
}
_WAIT_FOR_LOCK_SECONDS = 60.0
# Run tag; dagster.yaml allows one such run at a time. The advisory lock underneath keeps two from doing double work.
DRAIN_TAG = {"usage_pipeline/drain": "true"}


def snapshot_key(family: str) -> dg.AssetKey:
    """The asset of a family's raw rows."""
    return dg.AssetKey(_OUTPUTS[family][0][0])


def snapshots_and_totals() -> dg.AssetsDefinition:
    """One drain, with an asset for each table that it writes. To select some of them drains only their families."""

    @dg.multi_asset(specs=list(_specs()), name="drain_redis", can_subset=True, pool="redis_drain")
    def drain_redis(
        context: dg.AssetExecutionContext, settings: dg.ResourceParam[Settings]
    ) -> Iterator[dg.MaterializeResult[None]]:
        families = [name for name in ALL_FAMILIES if context.selected_asset_keys & set(output_keys(name))]
        started = datetime.now(UTC)
        try:
            report = drain_once(settings, families, wait_for_lock_seconds=_WAIT_FOR_LOCK_SECONDS)
        except DrainImpossible as problem:
            raise dg.Failure(str(problem)) from problem
        if report.busy:
            raise dg.Failure(
                f"Another process drains {', '.join(report.busy)} now, and stores what waits. Try again later."
            )
        for key, metadata in drained_metadata(settings, started, families).items():
            if key in context.selected_asset_keys:
                yield dg.MaterializeResult(asset_key=key, metadata=metadata)

    return drain_redis


def output_keys(family: str) -> list[dg.AssetKey]:
    """The assets that the drain of a family writes."""
    return [dg.AssetKey(path) for path, _, _ in _OUTPUTS[family]]


def drained_metadata(
    settings: Settings, since: datetime, families: tuple[str, ...] | list[str]
) -> dict[dg.AssetKey, dict[str, Any]]:
    """For each asset of these families: what any process drained since `since`, and the columns of its table."""
    found: dict[dg.AssetKey, dict[str, Any]] = {}
    with closing(connect(settings)) as connection:
        until = datetime.now(UTC)
        summaries = {summary.family: summary for summary in summarize(connection, since, until)}
        for family in families:
            summary = summaries.get(family)
            for path, table, _ in _OUTPUTS[family]:
                metadata = _summary_metadata(summary)
                if summary and path[0] == "snapshots":
                    profile = profile_batches(connection, table, summary, since, until)
                    metadata |= {"stored_bytes": profile.bytes, **null_shares(table, profile.null_shares)}
                elif summary:
                    metadata |= table_rows(table, profile_table(connection, table))
                found[dg.AssetKey(path)] = metadata
    return found


def _specs() -> Iterator[dg.AssetSpec]:
    for family, outputs in _OUTPUTS.items():
        upstream = source_key(family)
        for path, table, description in outputs:
            key = dg.AssetKey(path)
            yield dg.AssetSpec(
                key,
                deps=[upstream],
                description=f"{description} Table `{table}`. Materializing it drains Redis now; a sensor does so all the time.",
                group_name=path[0],
                owners=OWNERS,
                kinds={"postgres", "redis"} if path[0] == "snapshots" else {"postgres"},
                metadata=table_metadata(table),
                skippable=True,
            )
            upstream = key


def _summary_metadata(summary: FamilySummary | None) -> dict[str, Any]:
    if summary is None:
        return {"keys": 0, "stored_rows": 0, "batches": 0, "stored_bytes": 0}
    return {
        "keys": summary.keys,
        "stored_rows": summary.stored_rows,
        "batches": summary.batches,
        "dead_letters": summary.dead_letters,
        "duplicates": summary.duplicates,
        "uncertain_batches": summary.uncertain_batches,
        "longest_lag_seconds": summary.longest_lag_seconds,
        "days_touched": ", ".join(day.isoformat() for day in summary.usage_dates),
    }
