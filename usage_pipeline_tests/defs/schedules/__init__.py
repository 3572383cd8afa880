"""Tests of `usage_pipeline/defs/schedules/`."""
