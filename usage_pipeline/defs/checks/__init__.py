"""Asset checks and freshness: where a red check comes from. What they ask is in `usage_pipeline/checks/`."""
