"""Tests of `usage_pipeline/history/`."""
