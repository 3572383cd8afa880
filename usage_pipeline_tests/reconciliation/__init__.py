"""Tests of `usage_pipeline/reconciliation/`."""
