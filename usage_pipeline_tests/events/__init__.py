"""Tests of `usage_pipeline/events/`."""
