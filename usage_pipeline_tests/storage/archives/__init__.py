"""Tests of `usage_pipeline/storage/archives/`."""
