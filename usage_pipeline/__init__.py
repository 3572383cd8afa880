"""usage_pipeline: brings usage counters from Redis, and LLM usage events, into PostgreSQL, exactly once, with Dagster.

API servers write counters with `usage_recorder`, a distribution of its own in `clients/python/`.
"""
