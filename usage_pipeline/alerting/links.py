"""Addresses in the Dagster UI, from DAGSTER_UI_URL. Without that setting there are none: a wrong link is worse than no link."""

from urllib.parse import quote

from usage_pipeline.settings import Settings


def run_link(settings: Settings, run_id: str) -> str | None:
    return _link(settings, f"runs/{quote(run_id, safe='')}")


def asset_link(settings: Settings, asset: str, query: str = "") -> str | None:
    """Of an asset, named as `usage/api_key_daily`; `query` chooses a tab or partition."""
    return _link(settings, f"assets/{quote(asset)}{query}")


def partition_query(partition: str | None) -> str:
    return "" if partition is None else f"?view=partitions&partition={quote(partition, safe='')}"


def automation_link(settings: Settings) -> str | None:
    """Of the list of schedules and sensors."""
    return _link(settings, "automation")


def _link(settings: Settings, path: str) -> str | None:
    base = settings.dagster_ui_url
    return f"{base.rstrip('/')}/{path}" if base else None
