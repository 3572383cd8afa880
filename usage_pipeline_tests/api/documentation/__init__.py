"""Tests of `usage_pipeline/api/documentation/`, and of how pages and their files are answered."""
