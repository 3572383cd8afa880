"""Tests of `usage_pipeline/rezone/`."""
