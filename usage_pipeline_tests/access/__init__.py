"""Tests of `usage_pipeline/access/`."""
