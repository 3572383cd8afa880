"""Tests of `usage_pipeline/local/demo/`."""
