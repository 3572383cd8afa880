"""Tests of `usage_pipeline/local/traffic/`."""
