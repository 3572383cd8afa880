"""Tags by which the UI's catalog is searched: `domain`, `cadence`, and `pii`, which says whose data a table may hold."""

from collections.abc import Iterable

import dagster as dg

# By the first part of the key; single assets that belong elsewhere come first.
_DOMAINS = {
    "ops/landed_files": "events",
    "stats/daily_issue_stats": "issues",
    "redis": "counters",
    "snapshots": "counters",
    "usage": "counters",
    "analytics": "events",
    "app": "issues",
    "stats": "rankings",
    "reporting": "reporting",
    "reports": "reporting",
    "external": "enrichment",
    "ops": "operations",
}
# How often an asset is made or observed by itself. Views follow their tables at once.
_CADENCES = {
    "analytics/usage_events": "continuous",
    "analytics/usage_weekly": "daily",
    "analytics/usage_monthly": "daily",
    "app": "continuous",
    "external": "hourly",
    "ops/landed_files": "continuous",
    "ops/reconciliation": "hourly",
    "ops": "daily",
    "reporting": "continuous",
    "reports/weekly": "weekly",
    "reports/monthly": "monthly",
    "snapshots": "continuous",
    "stats/daily_issue_stats": "daily",
    "usage/api_access_tokens": "continuous",
    "usage/api_keys": "continuous",
    "usage/provider_usage": "continuous",
    "redis": "hourly",
    "analytics": "hourly",
    "stats": "hourly",
    "usage": "hourly",
}
_TEXTS = frozenset({"prompt", "prompt_full", "response_full", "body", "extra"})
_PEOPLE = frozenset({"user_id", "author", "reporter", "assignee"})


def tags_of(key: dg.AssetKey, columns: Iterable[str]) -> dict[str, str]:
    """The tags of an asset. `pii`: `texts` (what people wrote), `user_ids`, or `none`, by the names of its columns."""
    path, names = key.to_user_string(), set(columns)
    return {
        "domain": _DOMAINS.get(path) or _DOMAINS[key.path[0]],
        "cadence": _CADENCES.get(path) or _CADENCES[key.path[0]],
        "pii": "texts" if names & _TEXTS else "user_ids" if names & _PEOPLE else "none",
    }
