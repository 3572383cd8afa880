"""Asset checks and freshness, as Dagster runs them. The rules themselves are in `usage_pipeline/checks/`."""
