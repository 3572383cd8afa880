"""Tests of `usage_pipeline/recording/`."""
