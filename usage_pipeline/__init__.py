"""usage_pipeline: brings usage counters from Redis, and LLM usage events, into PostgreSQL, exactly once, with Dagster.

`recording/` is the library for API servers that write counters; everything else runs on the side of the pipeline.
"""
