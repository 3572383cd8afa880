"""Tests of `usage_pipeline/alerting/`."""
