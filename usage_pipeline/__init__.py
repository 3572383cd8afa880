"""usage_pipeline: usage counters from Redis to PostgreSQL, exactly once, orchestrated by Dagster."""
