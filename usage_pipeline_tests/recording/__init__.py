"""Tests of `clients/python/usage_recorder/`."""
