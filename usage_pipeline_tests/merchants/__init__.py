"""Tests of `usage_pipeline/merchants/`."""
