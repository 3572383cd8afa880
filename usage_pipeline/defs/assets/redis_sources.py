"""`redis/*`: what the API servers write. Observed, never materialized by us."""

from collections.abc import Iterator

import dagster as dg

from usage_pipeline.counters.ledger import SourceReading, read_sources
from usage_pipeline.defs.metadata import OWNERS
from usage_pipeline.settings import Settings

# Family of the domain -> asset and what it is.
SOURCES = {
    "api_key": ("api_key_metrics", "Hashes of deltas per API key: `apikey:{api_key_id}:metrics`."),
    "provider": (
        "provider_metrics",
        "Hashes of deltas per API key and provider: `provider:{api_key_id}:{provider}:metrics`.",
    ),
    "token": ("token_usage", "JSON deltas per API token and server instance: `token_usage:{token_id}:{instance_id}`."),
    "event": ("event_queue", "List of JSON request events, pushed by the API servers: `event_queue`."),
    "merchant": ("merchant_counters", "Absolute daily counters: `usage:{merchant_id}:{YYYY-MM-DD}:{metric_type}`."),
}


def source_key(family: str) -> dg.AssetKey:
    """The asset key of a family's source."""
    return dg.AssetKey(["redis", SOURCES[family][0]])


def redis_sources() -> dg.AssetsDefinition:
    """All five sources; observing them counts what waits, by one scan of the keyspace."""
    specs = [
        dg.AssetSpec(source_key(family), description=description, owners=OWNERS, kinds={"redis"})
        for family, (_, description) in SOURCES.items()
    ]

    @dg.multi_observable_source_asset(  # type: ignore[untyped-decorator]  # dagster's own annotation is missing
        specs=specs, name="redis_sources", group_name="redis"
    )
    def observe_redis(settings: dg.ResourceParam[Settings]) -> Iterator[dg.ObserveResult]:
        for reading in read_sources(settings):
            yield dg.ObserveResult(asset_key=source_key(reading.family), metadata=_metadata(reading))

    sources: dg.AssetsDefinition = observe_redis
    return sources


def _metadata(reading: SourceReading) -> dict[str, int | float]:
    return {
        "live_keys": reading.live_keys,
        "claimed_keys": reading.claimed_keys,
        "open_batches": reading.open_batches,
        "oldest_open_batch_seconds": reading.oldest_open_seconds,
        "redis_memory_bytes": reading.redis_memory_bytes,
    }
