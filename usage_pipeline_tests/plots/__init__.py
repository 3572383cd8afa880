"""Tests of `usage_pipeline/plots/`."""
