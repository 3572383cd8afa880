"""Tests of `usage_pipeline/checks/`."""
