"""Tests of `usage_pipeline/rollups/rezone/`."""
