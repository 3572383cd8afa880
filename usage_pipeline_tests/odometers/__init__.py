"""Tests of `usage_pipeline/odometers/`."""
