"""Tests of `usage_pipeline/rollups/dropped/`."""
