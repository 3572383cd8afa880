"""Tests of `usage_pipeline/defs/sensors/`."""
