"""Tests of `usage_pipeline/api/`."""
