"""Tests of `usage_pipeline/defs/checks/`."""
