"""Tests of `usage_pipeline/issues/`."""
