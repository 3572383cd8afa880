"""Tests of `usage_pipeline/events/files/` and of `usage-pipeline load events`."""
