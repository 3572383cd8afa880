"""`redis/*`: what the API servers write. Dagster observes these sources; no asset makes them."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import dagster as dg

from usage_pipeline.defs.metadata import OWNERS, column_schema, plot_metadata
from usage_pipeline.drain.readings.ledger import SourceReading, read_sources
from usage_pipeline.plots.series import backlog_picture
from usage_pipeline.settings import Settings
from usage_pipeline.storage.catalog import Column

_PICTURED_READINGS = 72


@dataclass(frozen=True, slots=True)
class Source:
    """The names of a family's keys, and what a key holds: name, type and meaning of each part (contracts §1)."""

    name: str
    keys: str
    description: str
    parts: tuple[tuple[str, str, str], ...]


_USED = ("last_used_at", "epoch milliseconds", "Latest use")
_PARTS = {
    "api_key": (
        ("total_requests", "integer", "Requests, all outcomes"),
        ("successful_requests", "integer", "Requests that succeeded"),
        ("failed_requests", "integer", "Requests that failed"),
        ("total_file_size", "integer", "Uploaded bytes"),
        ("total_files_uploaded", "integer", "Uploaded files"),
        _USED,
    ),
    "provider": (
        ("user_id", "string", "Owner of the API key"),
        ("provider", "string", "Storage provider; it settles how the key splits"),
        ("upload_count", "integer", "Uploads"),
        ("total_file_size", "integer", "Uploaded bytes"),
        _USED,
    ),
    "token": (
        ("usageCount", "integer", "Uses of the token on this instance"),
        ("lastUsedAt", "ISO 8601", "Latest use"),
        ("instanceId", "string", "Server instance; it settles how the key splits"),
    ),
    "event": (
        ("event_id", "uuid", "Event, stored once"),
        ("api_key_id", "string", "API key of the request"),
        ("user_id", "string", "User of the request"),
        ("provider", "string", "Storage provider of the request"),
        ("event_type", "string", "Kind of request, for example upload"),
        ("file_size", "integer", "Bytes of the file"),
        ("status", "string", "success or failure"),
        ("at", "ISO 8601", "When the request was made"),
    ),
    "merchant": (("value", "integer", "Count of the day so far; only ever goes up"),),
}
SOURCES = {
    family: Source(name, keys, description, _PARTS[family])
    for family, name, keys, description in (
        ("api_key", "api_key_metrics", "apikey:{api_key_id}:metrics", "Hashes of deltas per API key"),
        (
            "provider",
            "provider_metrics",
            "provider:{api_key_id}:{provider}:metrics",
            "Hashes of deltas per API key and provider",
        ),
        (
            "token",
            "token_usage",
            "token_usage:{token_id}:{instance_id}",
            "JSON deltas per API token and server instance",
        ),
        ("event", "event_queue", "event_queue", "List of JSON request events, pushed by the API servers"),
        ("merchant", "merchant_counters", "usage:{merchant_id}:{YYYY-MM-DD}:{metric_type}", "Absolute daily counters"),
    )
}


def source_key(family: str) -> dg.AssetKey:
    """The asset key of a family's source."""
    return dg.AssetKey(["redis", SOURCES[family].name])


def redis_sources() -> dg.AssetsDefinition:
    """All five sources. To observe them counts what waits, with one scan of all keys."""
    specs = [
        dg.AssetSpec(
            source_key(family),
            description=f"{source.description}: `{source.keys}`.",
            owners=OWNERS,
            kinds={"redis"},
            metadata={"redis_keys": source.keys, **column_schema(Column(*part) for part in _columns(source))},
        )
        for family, source in SOURCES.items()
    ]

    @dg.multi_observable_source_asset(  # type: ignore[untyped-decorator]  # dagster's own annotation is missing
        specs=specs, name="redis_sources", group_name="redis"
    )
    def observe_redis(
        context: dg.AssetExecutionContext, settings: dg.ResourceParam[Settings]
    ) -> Iterator[dg.ObserveResult]:
        for reading in read_sources(settings):
            key = source_key(reading.family)
            series = [*_earlier(context.instance, key), (datetime.now(UTC), float(reading.live_keys))]
            pictures = backlog_picture(f"Waiting in Redis: {SOURCES[reading.family].keys}", series)
            yield dg.ObserveResult(asset_key=key, metadata={**_metadata(reading), **plot_metadata(pictures)})

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


def _columns(source: Source) -> Iterator[tuple[str, str, bool, str]]:
    """The parts of a key as columns. Each part may be missing, so each column is nullable."""
    return ((name, data_type, True, comment) for name, data_type, comment in source.parts)


def _earlier(instance: dg.DagsterInstance, key: dg.AssetKey) -> list[tuple[datetime, float]]:
    """What earlier observations counted, oldest first."""
    records = instance.fetch_observations(key, limit=_PICTURED_READINGS).records
    return [
        (datetime.fromtimestamp(record.timestamp, UTC), float(value))
        for record in reversed(records)
        if record.asset_observation
        if isinstance(value := record.asset_observation.metadata["live_keys"].value, int | float)
    ]
