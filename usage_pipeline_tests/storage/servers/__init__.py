"""Tests of `usage_pipeline/storage/servers/`."""
