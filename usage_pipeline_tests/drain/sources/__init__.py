"""Tests of `usage_pipeline/drain/sources/`."""
