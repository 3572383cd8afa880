"""Tests of `usage_pipeline/enrichment/`."""
