"""Tests of `usage_pipeline/local/servers/`."""
