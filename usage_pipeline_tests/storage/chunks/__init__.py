"""Tests of `usage_pipeline/storage/chunks/`."""
